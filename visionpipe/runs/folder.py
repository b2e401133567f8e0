"""A folder run from scan to report."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionpipe.errors import (
    LedgerError,
    NoWorkerError,
    QueueUnavailableError,
    RunConflictError,
    UnknownJobError,
    UnsupportedTaskError,
)
from visionpipe.runs.artifacts import Artifacts
from visionpipe.runs.files import drop_overlays
from visionpipe.runs.labels import Labels
from visionpipe.runs.ledger import LEDGER_NAME, Ledger, discard
from visionpipe.runs.lock import output_lock
from visionpipe.runs.loop import Loop
from visionpipe.runs.names import real_path
from visionpipe.runs.outputs import write_outputs
from visionpipe.runs.overlays import Overlays
from visionpipe.runs.progress import OnProgress, RunProgress, Stage
from visionpipe.runs.report import RunReport
from visionpipe.runs.rows import Counts
from visionpipe.runs.scan import Scanner
from visionpipe.runs.sizing import Sizer
from visionpipe.runs.spec import RunSpec, full_options
from visionpipe.schemas.jobs import WorkerRecord
from visionpipe.settings import Settings, load_settings
from visionpipe.tasks import result_class

if TYPE_CHECKING:
    from visionpipe.aclient import AsyncClient

SCAN_BATCH = 2000
"""Files entered into the ledger at a time."""


def _silent(_: RunProgress) -> None:
    """Say nothing."""


async def run_folder(
    client: AsyncClient,
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    task: str,
    model: str,
    options: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    on_progress: OnProgress = _silent,
    patterns: tuple[str, ...] = (),
    every_file: bool = False,
    chunk: int | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    labels: Labels | None = None,
    overlays: bool = False,
    worker_timeout_s: float = 120,
) -> RunReport:
    """Ask one thing of every image in a folder; called again, it resumes where it was.

    Args:
        client: A connected client.
        folder: The folder of images, scanned recursively.
        out: Where ledger, results, report and gallery go; large outputs lie in ``artifacts``, drawings in ``overlays``.
        task: What is asked.
        model: Of which model: ``name`` or ``name@digest``.
        options: The task's options.
        settings: Media roots and limits; the environment's by default.
        on_progress: Called often, from the event loop; must return quickly.
        patterns: Which names are images; none means the usual suffixes.
        every_file: Submit every file that is not hidden.
        chunk: Images per job; adapts to the workers by default.
        fresh: Throw an earlier run in ``out`` away.
        retry_failed: Give inputs that failed another try.
        labels: True labels to hold the answers against.
        overlays: Draw every result over its image, as ``<out>/overlays/<path>.jpg``.
        worker_timeout_s: How long to wait for the first worker of the model.

    Raises:
        RunConflictError: ``out`` holds another run, or the model has changed since.
        RunLockedError: Another process runs into ``out``.
        NoWorkerError: No worker of the model came in time.
        UnsupportedTaskError: The workers of the model do not serve the task.
        MissingExtraError: ``overlays`` needs packages that are not installed.
        asyncio.CancelledError: Interrupted; the same call resumes.
    """
    settings = settings or load_settings()
    target_folder = Path(out)
    with output_lock(target_folder), ExitStack() as stack:
        if fresh:
            await _forsake(client, target_folder)
        asked = _asked(task, options or {}, target_folder, overlays=overlays)
        spec = RunSpec(Path(folder), task, model, asked, patterns, every_file)
        ledger = stack.enter_context(Ledger(target_folder, spec))
        drawings = stack.enter_context(closing(Overlays(spec, target_folder))) if overlays else None
        artifacts = Artifacts(client, target_folder, task)
        sitting = _Sitting(client, ledger, spec, target_folder, on_progress, artifacts, drawings)
        await sitting.answer(settings, Sizer(chunk), retry_failed=retry_failed, worker_timeout_s=worker_timeout_s)
        return await sitting.write(labels)


@dataclass(frozen=True)
class _Sitting:
    """One call of ``run_folder``, from the moment its ledger is open."""

    client: AsyncClient
    ledger: Ledger
    spec: RunSpec
    out: Path
    on_progress: OnProgress
    artifacts: Artifacts
    drawings: Overlays | None

    async def answer(self, settings: Settings, sizer: Sizer, *, retry_failed: bool, worker_timeout_s: float) -> None:
        """Enter the folder's files into the ledger, and get an outcome for each."""
        ledger, spec = self.ledger, self.spec
        await _scan(ledger, spec, self.out, self.on_progress)
        if ledger.resumed:
            await self.artifacts.mend(ledger)
        if retry_failed:
            ledger.retry_failed()
        if ledger.resumed:
            # What an earlier version of an input gave must not stand there as if it were this one's.
            await asyncio.to_thread(drop_overlays, self.out, ledger.open_paths())
        if ledger.counts().open:
            target = await _pin(self.client, ledger, spec, self.on_progress, worker_timeout_s)
            kept = (self.artifacts, self.drawings)
            await Loop(self.client, ledger, spec, target, settings, sizer, self.on_progress, *kept).run()

    async def write(self, labels: Labels | None) -> RunReport:
        """Draw what is left, and write the outputs."""
        failures = []
        if self.drawings is not None:
            await self.drawings.finish(self.ledger, self.on_progress)
            failures = self.drawings.failures()
        written = partial(write_outputs, self.ledger, self.spec, self.out, self.on_progress, labels)
        return await asyncio.to_thread(written, not_drawn=failures)


def rewrite_outputs(
    out: str | os.PathLike[str], *, on_progress: OnProgress = _silent, labels: Labels | None = None
) -> RunReport:
    """Write results, report and gallery again from the ledger alone; nothing is submitted.

    Raises:
        RunConflictError: There is no ledger in ``out``.
        RunLockedError: A run is going on there.
    """
    target_folder = Path(out)
    if not (target_folder / LEDGER_NAME).exists():
        raise RunConflictError(
            f"Expected a ledger in {str(target_folder)!r}; there is none, so nothing was run into it."
        )
    with output_lock(target_folder), Ledger(target_folder, None) as ledger:
        return write_outputs(ledger, RunSpec.recorded(ledger.facts()), target_folder, on_progress, labels)


def _asked(task: str, options: Mapping[str, Any], out: Path, *, overlays: bool) -> dict[str, Any]:
    """Fill in the options: what only serves drawings is as in an earlier sitting, else as this one needs it."""
    helpful = result_class(task).OVERLAY_OPTIONS
    before = _recorded_options(out) if helpful else None
    chosen = {name: before[name] for name in helpful if name in before} if before else helpful if overlays else {}
    return full_options(task, {**chosen, **options})


def _recorded_options(out: Path) -> dict[str, Any] | None:
    if not (out / LEDGER_NAME).exists():
        return None
    try:
        with Ledger(out, None) as ledger:
            return RunSpec.recorded(ledger.facts()).options
    except (LedgerError, RunConflictError):
        # What is wrong with it is told when it is opened for this run.
        return None


async def _forsake(client: AsyncClient, out: Path) -> None:
    """Throw a run away; its jobs still in the queue are cancelled where the ledger can be read."""
    # Nobody would collect their answers, and they would still take a worker's time.
    if (out / LEDGER_NAME).exists():
        jobs = await asyncio.to_thread(_open_jobs, out)
        for job in jobs:
            try:
                await client.job(job).cancel()
            except (UnknownJobError, QueueUnavailableError):
                continue
    discard(out)


def _open_jobs(out: Path) -> list[str]:
    try:
        with Ledger(out, None) as ledger:
            return [chunk.job for chunk in ledger.open_chunks()]
    except (LedgerError, RunConflictError):
        return []


async def _scan(ledger: Ledger, spec: RunSpec, out: Path, on_progress: OnProgress) -> None:
    walk = iter(Scanner(spec.folder_bytes, spec.patterns, spec.every_file, leave_out=frozenset({real_path(out)})))
    found = ledger.counts().found if ledger.resumed else 0
    seen = 0
    while batch := await asyncio.to_thread(lambda: list(itertools.islice(walk, SCAN_BATCH))):
        await asyncio.to_thread(ledger.add, batch)
        seen += len(batch)
        on_progress(RunProgress(Stage.SCAN, Counts(pending=max(found, seen))))


async def _pin(client: AsyncClient, ledger: Ledger, spec: RunSpec, on_progress: OnProgress, timeout_s: float) -> str:
    """Settle which version of the model this run is made with."""
    pinned = ledger.facts().get("pinned")
    name, _, wanted = (pinned or spec.model).partition("@")
    until_s = time.monotonic() + timeout_s
    while True:
        live = [worker for worker in await client.workers() if worker.model == name]
        fitting = [worker for worker in live if not wanted or worker.digest == wanted]
        if fitting:
            newest = max(fitting, key=lambda worker: worker.started_at)
            # Else every single image would be sent, only to fail with this.
            if spec.task not in newest.tasks:
                able = ", ".join(newest.tasks)
                raise UnsupportedTaskError(f"Expected a task that {name!r} can do ({able}), got {spec.task!r}.")
            ledger.note("pinned", f"{name}@{newest.digest}")
            return f"{name}@{newest.digest}"
        # Waiting would not help: only the old weights give answers that belong to this run.
        if live and pinned:
            raise _other_version(pinned, live, ledger)
        if time.monotonic() > until_s:
            raise NoWorkerError(
                f"No worker serves {pinned or spec.model}. Start one with: visionpipe worker {name}", model=name
            )
        on_progress(RunProgress(Stage.WAIT, ledger.counts(), note=f"Waiting for a worker of {pinned or spec.model}."))
        await asyncio.sleep(0.2)


def _other_version(pinned: str, live: list[WorkerRecord], ledger: Ledger) -> RunConflictError:
    served = sorted({f"{worker.model}@{worker.digest}" for worker in live})
    return RunConflictError(
        f"The run in {str(ledger.path.parent)!r} was made with {pinned}; the workers now serve {', '.join(served)}. "
        "Start a worker with the old version to resume it, or throw it away with --fresh.",
        pinned=pinned,
        served=served,
    )
