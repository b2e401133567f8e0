"""The ledger of a run: one SQLite file beside the outputs, one row per input.

Every change of state is one transaction, so a run may be killed between any two instructions. Write-ahead logging with
``synchronous=NORMAL`` survives the death of the process; a power cut may lose the last moments, never the consistency,
and what it loses is asked of the job records again.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from visionpipe.errors import LedgerError, RunConflictError
from visionpipe.runs import statements
from visionpipe.runs.files import discard_files
from visionpipe.runs.rows import Chunk, Counts, Input, InputState, Outcome, Row, Settled
from visionpipe.runs.scan import Found
from visionpipe.runs.spec import RunSpec
from visionpipe.runs.summaries import SUMMARY_FILES

LEDGER_NAME = "ledger.sqlite3"
READ_ROWS = 100
"""Rows that are read at a time."""
MAX_TRIES = 4
"""Submissions of one input whose errors are retryable."""


class Ledger:
    """One run's ledger.

    Args:
        out: The output folder, locked by the caller.
        spec: What the run is; checked against what the ledger says it is. ``None`` takes the ledger at its word.

    Raises:
        RunConflictError: The ledger is of another run.
        LedgerError: The file is no ledger of ours, or cannot be written.
    """

    def __init__(self, out: Path, spec: RunSpec | None) -> None:
        self.path = out / LEDGER_NAME
        self.resumed = self.path.exists()
        self._sitting = 0
        self._lock = threading.RLock()
        with _readable(self.path):
            # The event loop and a thread that scans or writes take turns, except that a run may be interrupted and its
            # ledger closed while the thread is still at it.
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            with _readable(self.path):
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.executescript(statements.SCHEMA)
            self._introduce(spec, out)
        except BaseException:
            self._db.close()
            raise

    def _introduce(self, spec: RunSpec | None, out: Path) -> None:
        recorded = self.facts()
        if spec is None:
            if "run" not in recorded:
                raise RunConflictError(f"The ledger in {str(out)!r} holds no run; it died before it began.")
        elif "run" in recorded:
            spec.check(recorded, out)
        else:
            with self._write() as db:
                facts = {**spec.facts(), "run": secrets.token_hex(8)}
                db.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _readable(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _read(self, query: str, *values: Any) -> Iterator[Any]:
        with self._lock, _readable(self.path):
            cursor = self._db.execute(query, values)
        while True:
            with self._lock, _readable(self.path):
                rows = cursor.fetchmany(READ_ROWS)
            if not rows:
                return
            yield from rows

    def facts(self) -> dict[str, str]:
        """What the run is: its identity, id, pinned model."""
        return dict(self._read("SELECT name, value FROM facts"))

    def note(self, name: str, value: str) -> None:
        """Write down one fact."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def add(self, batch: Iterable[Found]) -> None:
        """Enter what a scan found; inputs that have not changed since an earlier scan keep their outcome."""
        with self._write() as db:
            db.executemany(statements.ADD, (_as_row(found) for found in batch))

    def retry_failed(self) -> int:
        """Make every failed input that was submitted once pending again."""
        with self._write() as db:
            return db.execute(statements.RETRY_FAILED).rowcount

    def redo(self, paths: Iterable[bytes]) -> None:
        """Make inputs that are done pending again: what they gave is lost."""
        with self._write() as db:
            db.executemany(statements.REDO, ((path,) for path in paths))

    def counts(self) -> Counts:
        """Count the inputs by state."""
        return Counts(**dict(self._read("SELECT state, COUNT(*) FROM inputs GROUP BY state")))

    def cut(self, max_items: int, max_bytes: int) -> Chunk | None:
        """Make the next chunk of pending inputs; written down before anybody else hears of it.

        Args:
            max_items: Most images in it.
            max_bytes: Most bytes in it, except that a chunk has at least one image.
        """
        with self._write() as db:
            # Keyed by state and path, so the next inputs are found without a look at those already done.
            taken: list[tuple[int, Input]] = []
            total = 0
            for row_id, path, size in db.execute(
                "SELECT id, path, size_bytes FROM inputs WHERE state = 'pending' ORDER BY path LIMIT ?", (max_items,)
            ):
                if taken and total + size > max_bytes:
                    break
                taken.append((row_id, Input(path, size, len(taken))))
                total += size
            if not taken:
                return None
            serial = db.execute("INSERT INTO chunks (open) VALUES (1)").lastrowid
            assert serial is not None
            db.executemany(
                "UPDATE inputs SET state = 'submitted', chunk = ?, position = ? WHERE id = ?",
                ((serial, image.position, row_id) for row_id, image in taken),
            )
        return Chunk(serial, self._job(serial), tuple(image for _, image in taken))

    def open_chunks(self) -> list[Chunk]:
        """Chunks that were cut and not settled, oldest first; an input that changed since has left its chunk."""
        serials = [serial for (serial,) in self._read("SELECT serial FROM chunks WHERE open ORDER BY serial")]
        return [Chunk(serial, self._job(serial), self._inputs(serial)) for serial in serials]

    def _inputs(self, serial: int) -> tuple[Input, ...]:
        query = "SELECT path, size_bytes, position FROM inputs WHERE chunk = ? ORDER BY position"
        return tuple(Input(*row) for row in self._read(query, serial))

    def _job(self, serial: int) -> str:
        return f"run-{self.facts()['run']}-{serial}"

    def settle(self, chunk: Chunk, outcomes: Iterable[Outcome], *, model: str | None, worked_s: float) -> Settled:
        """Record what became of a chunk and close it; whatever has no outcome is pending again.

        Args:
            chunk: The chunk.
            outcomes: At most one per position; a retryable error sends its input back while its tries last.
            model: JSON of the ``ModelInfo`` that answered.
            worked_s: Seconds this sitting has worked until now.
        """
        retried = 0
        rows: dict[InputState, list[tuple[Any, ...]]] = {InputState.DONE: [], InputState.FAILED: []}
        with self._write() as db:
            for outcome in outcomes:
                where = (chunk.serial, outcome.position)
                if outcome.retryable and db.execute(statements.RETRY, (*where, MAX_TRIES)).rowcount:
                    retried += 1
                    continue
                state = InputState.DONE if outcome.code is None else InputState.FAILED
                rows[state].append((state, outcome.code, outcome.message, outcome.answer, *where))
            done, failed = (max(0, db.executemany(statements.SETTLE, some).rowcount) for some in rows.values())
            retried += self._close(db, chunk.serial, model)
            self._sit(db, worked_s, done + failed)
        return Settled(done, failed, retried)

    def shorten(self, chunk: Chunk, length: int) -> Chunk:
        """Make all but the first inputs of a chunk that was not submitted yet pending again."""
        with self._write() as db:
            db.execute(
                "UPDATE inputs SET state = 'pending', chunk = NULL, position = NULL WHERE chunk = ? AND position >= ?",
                (chunk.serial, length),
            )
        return replace(chunk, inputs=chunk.inputs[:length])

    def refuse(self, chunk: Chunk, outcomes: Iterable[Outcome]) -> Chunk:
        """Record inputs that cannot be submitted, and close ranks: positions are indices into the job's images."""
        # Without gaps, a job found again by a later sitting still matches its items to inputs by index alone.
        refused = {outcome.position: outcome for outcome in outcomes}
        if not refused:
            return chunk
        with self._write() as db:
            for position, outcome in refused.items():
                values = (InputState.FAILED, outcome.code, outcome.message, outcome.answer)
                db.execute(statements.SETTLE, (*values, chunk.serial, position))
            left = [index for index in range(len(chunk.inputs)) if index not in refused]
            db.execute(
                "UPDATE inputs SET chunk = NULL, position = NULL WHERE chunk = ? AND state = 'failed'", (chunk.serial,)
            )
            db.executemany(
                "UPDATE inputs SET position = ? WHERE chunk = ? AND position = ?",
                ((new, chunk.serial, old) for new, old in enumerate(left)),
            )
        return replace(chunk, inputs=tuple(chunk.inputs[old]._replace(position=new) for new, old in enumerate(left)))

    def release(self, chunk: Chunk) -> int:
        """Close a chunk whose job is gone; its inputs are pending again, and it costs them no try."""
        with self._write() as db:
            return self._close(db, chunk.serial, None)

    def _close(self, db: sqlite3.Connection, serial: int, model: str | None) -> int:
        db.execute("UPDATE chunks SET open = 0, model = ? WHERE serial = ?", (model, serial))
        return db.execute(
            "UPDATE inputs SET state = 'pending', chunk = NULL, position = NULL "
            "WHERE chunk = ? AND state = 'submitted'",
            (serial,),
        ).rowcount

    def _sit(self, db: sqlite3.Connection, worked_s: float, settled: int) -> None:
        if not self._sitting:
            row = db.execute("INSERT INTO sittings (worked_s, settled) VALUES (0, 0)").lastrowid
            assert row is not None
            self._sitting = row
        db.execute(
            "UPDATE sittings SET worked_s = ?, settled = settled + ? WHERE id = ?", (worked_s, settled, self._sitting)
        )

    def rows(self) -> Iterator[Row]:
        """Every input in the order of its path, streamed."""
        query = "SELECT path, size_bytes, state, code, message, answer, tries FROM inputs ORDER BY path"
        for path, size, state, code, message, answer, tries in self._read(query):
            yield Row(path, size, InputState(state), code, message, answer, tries)

    def open_paths(self) -> Iterator[bytes]:
        """The path of every input that has no outcome, streamed."""
        return (path for (path,) in self._read("SELECT path FROM inputs WHERE state IN ('pending', 'submitted')"))

    def widest(self, json_path: str) -> int:
        """Length of the longest array at a path of the answers."""
        return int(next(self._read("SELECT COALESCE(MAX(json_array_length(answer, ?)), 0) FROM inputs", json_path))[0])

    def models(self) -> list[str]:
        """JSON of every distinct ``ModelInfo`` that answered."""
        return [model for (model,) in self._read("SELECT DISTINCT model FROM chunks WHERE model IS NOT NULL")]

    def work(self) -> tuple[float, int]:
        """Seconds worked in all sittings, and inputs settled in them."""
        row = next(self._read("SELECT COALESCE(SUM(worked_s), 0.0), COALESCE(SUM(settled), 0) FROM sittings"))
        return float(row[0]), int(row[1])


def discard(out: Path) -> None:
    """Throw a ledger away, with everything that was written from it; nothing else in the folder is touched."""
    sidecars = [f"{LEDGER_NAME}{suffix}" for suffix in ("-wal", "-shm", "-journal")]
    written = ("results.jsonl", "results.csv", "report.json", "index.html", *SUMMARY_FILES)
    for name in (LEDGER_NAME, *sidecars, *written):
        (out / name).unlink(missing_ok=True)
    discard_files(out)


def _as_row(found: Found) -> tuple[bytes, int, int, str, str, str | None, str]:
    state = InputState.SKIPPED if found.skip else InputState.FAILED if found.code else InputState.PENDING
    verdict = found.skip or found.code
    return (found.path, found.size_bytes, found.mtime_ns, state, verdict or "", verdict, found.message)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerError(
            f"The ledger {os.fspath(path)!r} cannot be used: {error}. "
            "Make room or mend its permissions and run again; if it is broken, throw it away with --fresh."
        ) from error
