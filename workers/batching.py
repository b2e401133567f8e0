"""The micro-batcher: one thread owns the device and chooses what it does next.

Interactive work first, then suspects (images of a job whose worker died), then bulk, then long work. Whatever waits is
batched with no added delay; while the device is busy more accumulates.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from visionpipe.schemas.jobs import Lane, Progress
from visionpipe.schemas.results import Result
from workers.runtime import Outcome, Runtime, run_batch
from workers.work import Work

logger = logging.getLogger("visionpipe.batching")

MAX_BATCH_VALUES = 64 * 2**20
"""Input values (C x H x W summed over images) in one micro-batch: 256 MiB of float32."""
LONG_EVERY = 4
"""Long work gets a step at least after so many bulk batches, so that an overnight run does not starve it."""
HANG_EXIT = 70
"""Exit status of a worker whose device thread hung or died; its supervisor starts another."""


@dataclass(eq=False)
class LongWork:
    """One long job's generator, and whether it was told to hand over."""

    work: Work
    steps: Generator[Progress, None, Result]
    warned: bool = False


@dataclass
class Hooks:
    """What the batcher tells the rest of the worker; all are called on the device thread."""

    finished: Callable[[list[Work], list[Outcome]], None]
    """A micro-batch has its outcomes."""
    dropped: Callable[[Work], None]
    """Work of a stopped or lost job will not be done."""
    progressed: Callable[[Work, Progress], None]
    """Long work made a step."""
    suspect: Callable[[Work], bool]
    """Mark, read and prepare one suspect; False when that was the end of it."""


@dataclass
class Batcher:
    """The device thread and the queues before it; safe in threads.

    Args:
        runtimes: Task name → runtime.
        hooks: Whom to tell.
        max_batch: Largest micro-batch, in images; halved when the device runs out of memory.
    """

    runtimes: dict[str, Runtime]
    hooks: Hooks
    max_batch: int
    step_started: float | None = None
    """Monotonic time at which the present device step began; none while idle."""
    _ready: dict[Lane, deque[Work]] = field(default_factory=lambda: {lane: deque() for lane in Lane})
    _suspects: deque[Work] = field(default_factory=deque)
    _long: deque[LongWork] = field(default_factory=deque)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _closing: bool = False
    _bulk_since_long: int = 0

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def put(self, work: Work) -> None:
        """Hand over prepared work."""
        work.ready_at = time.monotonic()
        with self._wake:
            if self.runtimes[work.request.task].is_long:
                self._long.append(LongWork(work, self.runtimes[work.request.task].steps(work)))
            else:
                self._ready[work.job.lane].append(work)
            self._wake.notify()

    def put_suspect(self, work: Work) -> None:
        """Hand over an image that must be read, prepared and computed alone."""
        with self._wake:
            self._suspects.append(work)
            self._wake.notify()

    def close(self, timeout_s: float) -> None:
        """Let the thread end after its present step."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the device thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            while (step := self._next_step()) is not None:
                self.step_started = time.monotonic()
                step()
                self.step_started = None
        except BaseException:
            logger.critical(
                "the device thread died; the worker ends so that its supervisor starts another", exc_info=True
            )
            os._exit(HANG_EXIT)

    def _next_step(self) -> Callable[[], None] | None:
        with self._wake:
            while True:
                if self._closing:
                    return None
                if self._ready[Lane.INTERACTIVE]:
                    return self._batch_step(self._ready[Lane.INTERACTIVE])
                if self._suspects:
                    suspect = self._suspects.popleft()
                    return lambda: self._run_suspect(suspect)
                if self._long and (self._bulk_since_long >= LONG_EVERY or not self._ready[Lane.BULK]):
                    self._bulk_since_long = 0
                    long = self._long.popleft()
                    return lambda: self._run_long(long)
                if self._ready[Lane.BULK]:
                    self._bulk_since_long += 1
                    return self._batch_step(self._ready[Lane.BULK])
                self._wake.wait()

    def _batch_step(self, queue: deque[Work]) -> Callable[[], None]:
        """Take the oldest work and whatever may share its micro-batch."""
        first = queue[0]
        key, values = (first.request.task, first.key), 0
        batch: list[Work] = []
        skipped: list[Work] = []
        while queue and len(batch) < self.max_batch:
            work = queue.popleft()
            if (work.request.task, work.key) != key or (batch and values + work.num_pixels > MAX_BATCH_VALUES):
                skipped.append(work)
                continue
            batch.append(work)
            values += work.num_pixels
        queue.extendleft(reversed(skipped))
        return lambda: self._run_batch(batch)

    def _run_batch(self, batch: list[Work]) -> None:
        live = [work for work in batch if not work.job.dropped]
        for work in batch:
            if work.job.dropped:
                self.hooks.dropped(work)
        if live:
            self.hooks.finished(live, run_batch(self.runtimes[live[0].request.task], live, self._out_of_memory))

    def _run_suspect(self, work: Work) -> None:
        if work.job.dropped:
            self.hooks.dropped(work)
        elif not self.hooks.suspect(work):
            return
        elif self.runtimes[work.request.task].is_long:
            self.put(work)
        else:
            work.ready_at = time.monotonic()
            self._run_batch([work])

    def _run_long(self, long: LongWork) -> None:
        """Make one step; a stopped job may use one more to hand over the best it has."""
        if long.work.job.lost or (long.work.job.dropped and long.warned):
            long.steps.close()
            self.hooks.dropped(long.work)
            return
        long.warned = long.work.job.dropped
        outcome: Any
        try:
            self.hooks.progressed(long.work, next(long.steps))
        except StopIteration as end:
            outcome = end.value
        except Exception as error:  # noqa: BLE001 - becomes the item's error
            outcome = error
        else:
            with self._wake:
                self._long.append(long)
            return
        self.hooks.finished([long.work], [outcome])

    def _out_of_memory(self, batch_size: int) -> None:
        if batch_size > 1 and batch_size // 2 < self.max_batch:
            self.max_batch = batch_size // 2
            logger.warning("out of memory with %d images; micro-batches are at most %d now", batch_size, self.max_batch)
