"""The micro-batcher: one thread owns the device and chooses what it does next.

Interactive work first, then suspects (images of a job whose worker died), then bulk, then long work. Whatever waits is
batched with no added delay; while the device is busy more accumulates.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from functools import partial

import torch

from visionpipe.schemas.jobs import Lane
from workers.hooks import Hooks
from workers.limits import Limits
from workers.longwork import LONG_EVERY, LongRunner
from workers.pipeline import Pipeline
from workers.ready import MAX_BATCH_VALUES, Ready
from workers.runtime import Runtime
from workers.threads import use_cores, vital
from workers.work import Work
from workers.yielding import ASIDE_S

MAX_READY_VALUES = 2 * MAX_BATCH_VALUES
"""Input values of one lane that wait for the device; beyond it the decode threads wait."""
HUNGRY = 0.25
"""The device is, when it waits, and below so many micro-batches of ready bulk work."""
FED_S = 0.02
"""How often it is looked whether few readers suffice for a device that waits."""
GATHER_S = 0.1
"""How long, at most, the device waits for a bulk batch to fill while more of it is being read and prepared."""


@dataclass
class Batcher:
    """The device thread and the queues before it; safe in threads.

    Args:
        runtimes: Task name → runtime.
        hooks: Whom to tell.
        max_batch: Largest micro-batch, in images, of tasks for which no larger one suits.
    """

    runtimes: dict[str, Runtime]
    hooks: Hooks
    max_batch: InitVar[int]
    step_started: float | None = None
    """Monotonic time at which the present device step began; none while idle."""
    _ready: Ready = field(default_factory=Ready)
    _chores: deque[Callable[[], None]] = field(default_factory=deque)
    _suspects: deque[Work] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _coming: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    _closing: bool = False
    _is_starving: bool = False
    _bulk_since_long: int = 0

    def __post_init__(self, max_batch: int) -> None:
        self.limits = Limits(self.runtimes, max_batch)
        self._wake, self._room, self._hunger = (threading.Condition(self._lock) for _ in range(3))
        self._long = LongRunner(self.runtimes, self.hooks, self._lock, self._room)
        self._cores = torch.get_num_threads()
        self._pipeline = Pipeline(
            self.hooks.finished, lambda task, num_items: self.limits.ran_out_of_memory(task, num_items)
        )
        self._warm = threading.Event()
        self._thread = vital("device", self._run)

    def start(self) -> None:
        """Start the device thread."""
        self._thread.start()

    def wait_warm(self, timeout_s: float) -> bool:
        """Wait until the device thread takes work; says whether it does."""
        return self._warm.wait(timeout_s)

    def put(self, work: Work) -> None:
        """Hand over prepared work; waits while its lane has more than enough of it."""
        lane = work.job.lane
        with self._lock:
            self._put(work, lane)
            # Waking the device for what joins a batch that is being filled would cost more than a tiny image.
            if lane is Lane.INTERACTIVE or work.is_long or (self._is_starving and self._is_bulk_worth_waking_for):
                self._wake.notify()

    def _put(self, work: Work, lane: Lane) -> None:
        if work.is_long:
            # Interactive ones never wait here: quick images would queue behind them in the decode threads.
            while lane is Lane.BULK and self._long.values > MAX_READY_VALUES and not self._closing:
                self._wait_for_room()
            self._long.put(work)
        else:
            while self._ready.values(lane) > MAX_READY_VALUES and not self._closing:
                self._wait_for_room()
            self._ready.put(lane, work)

    def _wait_for_room(self) -> None:
        # What was put just now must be seen, or there will never be room.
        self._wake.notify()
        self._room.wait()

    def expect(self, lane: Lane, num_items: int) -> None:
        """Count work that is being read and prepared; less is a negative number."""
        if num_items:
            with self._lock:
                self._coming[lane] += num_items
                # The device waits for what comes, and needs to know when nothing does any more.
                if not self._coming[lane]:
                    self._wake.notify()

    def wait_until_hungry(self, is_fed: Callable[[], bool]) -> None:
        """Wait until little bulk work is ready: more readers than are needed keep each other back.

        Args:
            is_fed: Whether those who read meanwhile suffice, however little is ready.
        """
        with self._lock:
            while not (self._closing or (self._is_hungry and not is_fed())):
                # Nobody tells when those who suffice no longer do.
                self._hunger.wait(FED_S if self._is_hungry else None)

    @property
    def _is_hungry(self) -> bool:
        return self._is_starving or self._ready.count(Lane.BULK) < HUNGRY * self._limit(Lane.BULK)

    def between(self, chore: Callable[[], None]) -> None:
        """Have something done by the device thread between two steps."""
        with self._lock:
            self._chores.append(chore)
            self._wake.notify()

    def put_suspect(self, work: Work) -> None:
        """Hand over an image that must be decoded, prepared and computed alone."""
        with self._lock:
            self._suspects.append(work)
            self._wake.notify()

    def close(self, timeout_s: float) -> None:
        """Let the thread end after its present step."""
        with self._lock:
            self._closing = True
            self._wake.notify_all()
            self._room.notify_all()
            self._hunger.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def has_work(self) -> bool:
        """Whether anything waits for the device, or is on its way to it."""
        waiting = any(map(self._ready.count, Lane)) or any(self._coming.values()) or self._long.queue.has_any
        return waiting or bool(self._chores or self._suspects)

    @property
    def busy_s(self) -> float:
        """How long the device has computed micro-batches and steps of long work."""
        return self._pipeline.busy_s + self._long.spent_s

    @property
    def alive(self) -> bool:
        """Whether the device thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        use_cores(self._cores)
        # Torch keeps threads, handles and scratch memory per thread; the first job should not wait for them.
        self.step_started = time.monotonic()
        for runtime in self.runtimes.values():
            runtime.warm_up(1)
        self.step_started = None
        self._warm.set()
        while (step := self._next_step()) is not None:
            self.step_started = time.monotonic()
            step()
            self.step_started = None
            # The last batch of a quiet hour would otherwise stay in memory.
            del step
        self._pipeline.finish()

    def _next_step(self) -> Callable[[], None] | None:
        stood_aside, gather_until = False, time.monotonic() + GATHER_S
        with self._lock:
            while not self._closing:
                if self._ready.count(Lane.INTERACTIVE):
                    return self._batch_step(Lane.INTERACTIVE)
                if self._pipeline.is_pending and not self._is_bulk_next:
                    return self._pipeline.finish
                if self._coming[Lane.INTERACTIVE] and not stood_aside:
                    # A step begun now would keep waiting what is ready in a moment.
                    self._wake.wait_for(
                        lambda: self._ready.count(Lane.INTERACTIVE) or not self._coming[Lane.INTERACTIVE], ASIDE_S
                    )
                    stood_aside = True
                    continue
                if self._chores:
                    return self._chores.popleft()
                if self._suspects:
                    return partial(self._run_suspect, self._suspects.popleft())
                if (step := self._long_step()) is not None:
                    return step
                if self._is_gathering and (left_s := gather_until - time.monotonic()) > 0:
                    self._starve(left_s)
                    continue
                if self._ready.count(Lane.BULK):
                    self._bulk_since_long += 1
                    return self._batch_step(Lane.BULK)
                self._starve()
        return None

    def _starve(self, timeout_s: float | None = None) -> None:
        self._is_starving = True
        self._hunger.notify_all()
        self._wake.wait(timeout_s)
        self._is_starving = False

    @property
    def _is_gathering(self) -> bool:
        """Whether a bulk batch would be fuller in a moment: small ones keep both the device and the decoders back."""
        has_more = self._ready.count(Lane.BULK) > 0 and self._coming[Lane.BULK] > 0
        return has_more and not self._ready.has_full_batch(Lane.BULK, self._limit(Lane.BULK))

    @property
    def _is_bulk_worth_waking_for(self) -> bool:
        """Whether a device that waits should look at what is ready: the first of a batch, or enough for one."""
        return self._ready.count(Lane.BULK) <= 1 or not self._is_gathering

    @property
    def _is_bulk_next(self) -> bool:
        """Whether a bulk batch would begin now, with nothing before it and no more to wait for."""
        others = self._coming[Lane.INTERACTIVE] or self._chores or self._suspects or self._long.queue.has_any
        return not (others or self._is_gathering or not self._ready.count(Lane.BULK))

    def _long_step(self) -> Callable[[], None] | None:
        if stopped := self._long.queue.take_stopped():
            return lambda: self._long.drop(stopped)
        lane = next((lane for lane in Lane if self._long.queue.has(lane)), None)
        if lane is None or (self._ready.count(Lane.BULK) and self._bulk_since_long < LONG_EVERY[lane]):
            return None
        self._bulk_since_long = 0
        return partial(self._long.run, self._long.queue.take())

    def _batch_step(self, lane: Lane) -> Callable[[], None]:
        batch = self._ready.take(lane, self._limit(lane))
        self._room.notify_all()
        if self._is_hungry:
            self._hunger.notify_all()
        return lambda: self._run_batch(batch)

    def _limit(self, lane: Lane) -> int:
        task = self._ready.next_task(lane)
        return self.limits.of(task) if task else self.limits.max_batch

    def _run_batch(self, batch: list[Work]) -> None:
        live: list[Work] = []
        for work in batch:
            if work.job.dropped:
                self.hooks.dropped(work)
            else:
                live.append(work)
        if live:
            task = live[0].request.task
            self._pipeline.run(self.runtimes[task], live)
            self.limits.learn(task, self._pipeline.last_s, len(live))

    def _run_suspect(self, work: Work) -> None:
        if work.job.dropped:
            self.hooks.dropped(work)
        elif self.hooks.suspect(work):
            if work.is_long:
                with self._lock:
                    self._long.put(work)
            else:
                self._run_batch([work])
                self._pipeline.finish()
