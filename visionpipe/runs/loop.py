"""The run itself: cuts chunks, keeps a window of them in flight, records what they bring."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from visionpipe.errors import JobConflictError, QueueFullError, QueueUnavailableError, UnknownJobError, VisionPipeError
from visionpipe.media import MediaRoots
from visionpipe.runs.artifacts import Artifacts, has_artifacts
from visionpipe.runs.ceiling import Watch
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.names import real_path
from visionpipe.runs.outcomes import outcomes, raw_outcomes, was_cancelled
from visionpipe.runs.overlays import Overlays
from visionpipe.runs.prepare import Prepared, prepare
from visionpipe.runs.progress import OnProgress, RunProgress, Speed, Stage
from visionpipe.runs.rows import Chunk, Counts, Settled
from visionpipe.runs.sizing import Sizer
from visionpipe.runs.spec import RunSpec
from visionpipe.schemas.jobs import Lane, WorkerRecord
from visionpipe.schemas.results import Result
from visionpipe.settings import Settings

if TYPE_CHECKING:
    from visionpipe.aclient import AsyncClient
    from visionpipe.jobs import AsyncJob

UPLOAD_BYTES = 64 * 2**20
"""Most bytes of one chunk that travels through the store; the run holds a window of them in memory."""
SHARED_BYTES = 2**30
"""The same for a chunk of references; what none can be made of, such as links out of the root, is sent all the same."""
LOOK_S = 1.0
"""How often the live workers are looked at."""
GRACE_S = 3.0
"""How long an interrupted run waits for the chunks in flight before it cancels them."""
PATIENCE_S = 300.0
"""How long a run bears with a Redis that cannot be reached."""

T = TypeVar("T")


@dataclass
class Loop:
    """One sitting of a run.

    Args:
        client: A connected client.
        ledger: The run's ledger, already scanned into.
        spec: What is asked.
        target: The pinned model, ``name@digest``.
        settings: Limits and media roots.
        sizer: Decides the size of chunks.
        on_progress: Called at every step.
        artifacts: Saves what results name.
        overlays: Draws results, where that is wanted.
    """

    client: AsyncClient
    ledger: Ledger
    spec: RunSpec
    target: str
    settings: Settings
    sizer: Sizer
    on_progress: OnProgress
    artifacts: Artifacts
    overlays: Overlays | None = None
    counts: Counts = field(init=False)
    _flying: dict[asyncio.Task[None], Chunk] = field(default_factory=dict, init=False)
    _workers: list[WorkerRecord] = field(default_factory=list, init=False)
    _looked_s: float = field(default=float("-inf"), init=False)
    _speed: Speed = field(default_factory=Speed, init=False)
    _interrupted: bool = field(default=False, init=False)
    _watch: Watch = field(default_factory=Watch, init=False)

    def __post_init__(self) -> None:
        self.counts = self.ledger.counts()
        self._options = self.spec.request_options()
        self._roots = MediaRoots(self.settings.media_roots)
        folder = self.spec.folder_bytes + b"/"
        self._homes = {
            name
            for name, root in self.settings.media_roots.items()
            if folder.startswith(real_path(root.expanduser()) + b"/")
        }
        self._began_s = time.monotonic()

    async def run(self) -> None:
        """Bring every pending input to an outcome.

        Raises:
            asyncio.CancelledError: The run was interrupted; what was in flight has been settled or cancelled.
            QueueUnavailableError: Redis stayed away for too long.
        """
        try:
            await self._look()
            # What an earlier sitting left in the queue may be finished by now, or be worked on this moment.
            for chunk in self.ledger.open_chunks():
                self._fly(chunk, self._resume(chunk))
            while await self._fill():
                await self._look()
                ended, _ = await asyncio.wait(self._flying, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    del self._flying[task]
                    task.result()
                self._say(Stage.WORK)
            # Only for the ceiling: no outage may hold up a run whose every outcome is in the ledger.
            with suppress(VisionPipeError):
                self._see(await self.client.workers())
        except asyncio.CancelledError:
            await self._wind_down()
            raise
        finally:
            for task in self._flying:
                task.cancel()
            await asyncio.gather(*self._flying, return_exceptions=True)
            # Without this note the report only lacks a line; why the run ends matters more.
            with suppress(VisionPipeError):
                if ceiling := self._watch.ceiling():
                    self.ledger.note("ceiling", ceiling.model_dump_json())

    async def _fill(self) -> bool:
        """Cut chunks until the window is full; false when nothing is left to wait for."""
        while len(self._flying) < self.sizer.window:
            max_bytes = SHARED_BYTES if self._homes & self._shared() else UPLOAD_BYTES
            chunk = self.ledger.cut(self.sizer.next_size(self.counts.pending), max_bytes)
            if chunk is None:
                break
            self._count(pending=-len(chunk.inputs), submitted=len(chunk.inputs))
            self._say(Stage.SUBMIT)
            self._fly(chunk, self._send(chunk))
        return bool(self._flying)

    def _fly(self, chunk: Chunk, work: Any) -> None:
        self._flying[asyncio.create_task(work, name=chunk.job)] = chunk

    async def _resume(self, chunk: Chunk) -> None:
        job = self.client.job(chunk.job)
        try:
            await self.patiently(job.record)
        except UnknownJobError:
            self._release(chunk)
        else:
            # If it was cancelled, then by the sitting that was interrupted, which left before that was confirmed.
            await self._collect(chunk, job, interrupted=True)

    async def _send(self, chunk: Chunk) -> None:
        # The bytes of a chunk are let go once they are submitted; its answers may take long.
        sent = await self._offer(chunk)
        if sent is not None:
            await self._collect(*sent)

    async def _offer(self, chunk: Chunk) -> tuple[Chunk, AsyncJob[Result]] | None:
        # Files may lie on a slow network; the loop must go on collecting answers meanwhile.
        prepared = await asyncio.to_thread(
            prepare,
            chunk.inputs,
            self.spec.folder_bytes,
            self._roots,
            self._shared(),
            max_bytes=self.settings.max_image_bytes,
            upload_bytes=UPLOAD_BYTES,
        )
        if prepared.taken < len(chunk.inputs):
            left = len(chunk.inputs) - prepared.taken
            chunk = self.ledger.shorten(chunk, prepared.taken)
            self._count(submitted=-left, pending=left)
        if prepared.refused:
            refused = len(prepared.refused)
            chunk = self.ledger.refuse(chunk, prepared.refused)
            self._count(submitted=-refused, failed=refused)
        if not prepared.images:
            self._release(chunk)
            return None
        try:
            return chunk, await self.patiently(partial(self._submit, chunk, prepared))
        except JobConflictError:
            # The id is taken by a job that this ledger did not write down; a fresh chunk gets a fresh id.
            self._release(chunk)
            return None

    async def _submit(self, chunk: Chunk, prepared: Prepared) -> AsyncJob[Result]:
        return await self.client.submit(
            self.spec.task,
            prepared.images,
            model=self.target,
            options=self._options,
            lane=Lane.BULK,
            job=chunk.job,
            wait_for_worker=True,
        )

    async def _collect(self, chunk: Chunk, job: AsyncJob[Result], *, interrupted: bool = False) -> None:
        try:
            raw = await self.patiently(job.wait_raw)
        except UnknownJobError:
            # Redis was emptied, or the run slept for longer than results are kept.
            self._release(chunk)
            return
        interrupted = interrupted or self._interrupted
        # Results that nobody looks at here go into the ledger as they came.
        needed = has_artifacts(self.spec.task) or self.overlays is not None
        envelope = job.read(raw) if needed else None
        if envelope is not None:
            # Before the ledger says that they are done: a run that dies in between collects the job again.
            envelope = await self.artifacts.save(chunk, envelope, self.patiently)
            told = outcomes(envelope, interrupted=interrupted)
        else:
            told = raw_outcomes(raw, interrupted=interrupted)
        now_s = time.monotonic()
        model = raw.model.model_dump_json() if raw.model else None
        settled = self.ledger.settle(chunk, told, model=model, worked_s=now_s - self._began_s)
        self._watch.settle(settled.done + settled.failed, now_s - self._began_s)
        self._record(settled)
        if self.overlays is not None and envelope is not None:
            for item in envelope.items:
                path = None if interrupted and was_cancelled(item) else chunk.path(item.index)
                if item.result is not None and path is not None:
                    self.overlays.offer(path, item.result)
        self.sizer.learn(settled.done + settled.failed, now_s)
        self._speed.add(settled.done + settled.failed, now_s)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call while the queue is full, and for a while when Redis is away."""
        away_since_s: float | None = None
        while True:
            try:
                return await call()
            except QueueFullError as error:
                self._say(Stage.WAIT, "The queue is full.")
                pause_s = float(error.details.get("retry_after_s", 1.0))
            except QueueUnavailableError:
                now_s = time.monotonic()
                away_since_s = away_since_s or now_s
                if now_s - away_since_s > PATIENCE_S:
                    raise
                self._say(Stage.WAIT, "Redis or the store cannot be reached.")
                pause_s = 1.0
            await asyncio.sleep(min(30.0, max(0.1, pause_s)))

    async def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        self._see(await self.patiently(self.client.workers))

    def _see(self, workers: Sequence[WorkerRecord]) -> None:
        name, _, digest = self.target.partition("@")
        self._workers = [worker for worker in workers if worker.model == name and worker.digest == digest]
        self.sizer.observe(self._workers)
        self._watch.observe(self._workers)

    def _shared(self) -> frozenset[str]:
        """Media roots that every live worker of the model mounts."""
        if not self._workers:
            return frozenset()
        return frozenset.intersection(*(frozenset(worker.media_roots) for worker in self._workers))

    async def _wind_down(self) -> None:
        # The task was cancelled once, so awaiting works again; a second Ctrl-C ends the process for good.
        self._interrupted = True
        self._say(Stage.WAIT, "Interrupted; the chunks in flight are let finish.")
        if self._flying:
            await asyncio.wait(self._flying, timeout=GRACE_S)
        late = {task: chunk for task, chunk in self._flying.items() if not task.done()}
        if late:
            # All at once: while Redis is away each takes its whole time.
            await asyncio.gather(*(self._cancel(chunk) for chunk in late.values()))
            await asyncio.wait(late, timeout=GRACE_S)

    async def _cancel(self, chunk: Chunk) -> None:
        try:
            await asyncio.wait_for(self.client.job(chunk.job).cancel(), GRACE_S)
        except (UnknownJobError, QueueUnavailableError, TimeoutError):
            return  # The next sitting finds the chunk open in the ledger and asks for its job again.

    def _release(self, chunk: Chunk) -> None:
        released = self.ledger.release(chunk)
        self._count(submitted=-released, pending=released)

    def _record(self, settled: Settled) -> None:
        self._count(submitted=-sum(settled), pending=settled.retried, done=settled.done, failed=settled.failed)

    def _count(self, **changes: int) -> None:
        now = self.counts._asdict()
        self.counts = Counts(**{state: now[state] + changes.get(state, 0) for state in now})

    def _say(self, stage: Stage, note: str = "") -> None:
        rate = self._speed.rate(time.monotonic(), self._began_s)
        if not self._workers and not note:
            stage, note = Stage.WAIT, f"No worker for {self.target} is alive."
        self.on_progress(RunProgress(stage, self.counts, rate, len(self._workers), note))
