"""Draws what a run found, in threads beside it; a drawing that fails is told, and fails nothing else."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from visionpipe.errors import VisionPipeError
from visionpipe.extras import images_extra
from visionpipe.runs.artifacts import done_results
from visionpipe.runs.files import OVERLAYS, drop_overlay, make_folder, overlay_file, reader, write_overlay
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.names import as_text
from visionpipe.runs.progress import OnProgress, RunProgress, Stage
from visionpipe.runs.report import Failure
from visionpipe.runs.spec import RunSpec
from visionpipe.schemas.results import Result
from visionpipe.wire import error_info

SIDE_PX = 1600
"""Longer side of a drawing at most: large enough to look at, small enough to browse thousands."""
THREADS = max(1, min(4, (os.cpu_count() or 1) // 2))
BACKLOG = 64
"""Results that wait to be drawn; what comes on top is drawn at the end, from the ledger."""
LARGE_PX = 24_000_000
"""Images of more pixels are drawn one at a time, as each takes hundreds of megabytes."""


@dataclass
class Overlays:
    """The drawings of one run.

    Args:
        spec: What the run is.
        out: The output folder.

    Raises:
        MissingExtraError: The packages that draw are not installed.
        LedgerError: The output folder cannot be written to.
    """

    spec: RunSpec
    out: Path
    _pool: ThreadPoolExecutor = field(init=False)
    _waiting: set[Future[None]] = field(default_factory=set, init=False)
    _large: threading.Lock = field(default_factory=threading.Lock, init=False)
    _failures: dict[bytes, tuple[str, str]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        with images_extra():
            # Told now rather than once for each image.
            import visionpipe.drawing.boxes
            import visionpipe.drawing.maps  # noqa: F401
        make_folder(self.out, OVERLAYS)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="vp-draw")

    def close(self) -> None:
        """Give up what waits, and wait for what is being drawn."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def offer(self, path: bytes, result: Result) -> None:
        """Draw an input soon, or leave it to ``finish`` when much is waiting; returns at once."""
        self._waiting = {work for work in self._waiting if not work.done()}
        if len(self._waiting) < BACKLOG:
            self._waiting.add(self._pool.submit(self._draw, path, result))

    async def finish(self, ledger: Ledger, on_progress: OnProgress) -> None:
        """Draw every input that is done and has no drawing so far."""
        await asyncio.gather(*map(asyncio.wrap_future, self._waiting))
        counts, drawn = ledger.counts(), 0
        walk = self._missing(ledger)
        while batch := await asyncio.to_thread(lambda: list(itertools.islice(walk, BACKLOG))):
            work = [asyncio.wrap_future(self._pool.submit(self._draw, path, result)) for path, result in batch]
            await asyncio.gather(*work)
            drawn += len(batch)
            on_progress(RunProgress(Stage.DRAW, counts, note=f"{drawn:,} drawn at the end"))

    def failures(self) -> list[Failure]:
        """What could not be drawn, by code, most frequent first."""
        found: dict[str, Failure] = {}
        for path, (code, message) in sorted(self._failures.items()):
            first = found.get(code) or Failure(code=code, count=0, example_path=as_text(path), example_message=message)
            found[code] = first.model_copy(update={"count": first.count + 1})
        return sorted(found.values(), key=lambda failure: (-failure.count, failure.code))

    def _missing(self, ledger: Ledger) -> Iterator[tuple[bytes, Result]]:
        for path, result in done_results(ledger, self.spec.task):
            # What has failed in this sitting would only fail again.
            if path not in self._failures and overlay_file(os.fsencode(self.out), path) is None:
                yield path, result

    def _draw(self, path: bytes, result: Result) -> None:
        out = os.fsencode(self.out)
        try:
            drop_overlay(out, path)
            self._failures.pop(path, None)
            write_overlay(out, path, self._drawing(path, result))
        except Exception as error:  # noqa: BLE001 - a drawing is a convenience, and the answer is safe already
            info = error_info(error) if isinstance(error, VisionPipeError | OSError) else None
            self._failures[path] = (info.code, info.message) if info else (type(error).__name__, str(error))

    def _drawing(self, path: bytes, result: Result) -> bytes:
        from visionpipe.drawing.files import encode

        width, height = result.image_size_wh or (0, 0)
        bound = result.model_copy().bind(reader(self.out, path, result))
        image = os.fsdecode(self.spec.folder_bytes + b"/" + path)
        if width * height <= LARGE_PX:
            return encode(bound.draw(image, max_side_px=SIDE_PX), "drawing.jpg")
        with self._large:
            return encode(bound.draw(image, max_side_px=SIDE_PX), "drawing.jpg")
