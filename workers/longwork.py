"""Long work: generators that make a device step at a time, taken in turns."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from visionpipe.schemas.jobs import Lane, Progress
from visionpipe.schemas.results import Result
from workers.device import free_memory, is_fatal, is_out_of_memory
from workers.hooks import Hooks
from workers.runtime import Answer, Runtime
from workers.work import Work

logger = logging.getLogger("visionpipe.longwork")

MAX_ACTIVE = 4
"""Long jobs of one lane that are under way at once; each holds its state on the device."""
LONG_EVERY = {Lane.INTERACTIVE: 1, Lane.BULK: 4}
"""Long work gets a step at least after so many bulk batches, so that an overnight run does not starve it."""
BULK_EVERY = 4
"""Bulk long work gets a step at least after so many interactive ones."""


@dataclass(eq=False)
class LongWork:
    """One image's generator, and whether it was told to hand over."""

    work: Work
    steps: Generator[Progress, None, Answer]
    warned: bool = False


@dataclass
class LongQueue:
    """Long work by lane: some under way, in turns; the rest in order. Its owner holds the lock."""

    _active: dict[Lane, deque[LongWork]] = field(default_factory=lambda: {lane: deque() for lane in Lane})
    _waiting: dict[Lane, deque[LongWork]] = field(default_factory=lambda: {lane: deque() for lane in Lane})
    _out: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    _since_bulk: int = 0

    def put(self, long: LongWork) -> None:
        """Add new work at the end."""
        self._waiting[long.work.job.lane].append(long)

    def again(self, long: LongWork) -> None:
        """Put back work that has made a step."""
        self._out[long.work.job.lane] -= 1
        self._active[long.work.job.lane].append(long)

    def done(self, long: LongWork) -> None:
        """Forget work that has ended."""
        self._out[long.work.job.lane] -= 1

    def has(self, lane: Lane) -> bool:
        """Whether a lane has work."""
        return bool(self._active[lane] or self._waiting[lane])

    @property
    def has_any(self) -> bool:
        """Whether any lane has."""
        return any(map(self.has, Lane))

    def take(self) -> LongWork:
        """Take the work whose turn it is; there must be some."""
        bulk_turn = self._since_bulk >= BULK_EVERY or not self.has(Lane.INTERACTIVE)
        lane = Lane.BULK if bulk_turn and self.has(Lane.BULK) else Lane.INTERACTIVE
        self._since_bulk = 0 if lane is Lane.BULK else self._since_bulk + 1
        active, waiting = self._active[lane], self._waiting[lane]
        while waiting and len(active) + self._out[lane] < MAX_ACTIVE:
            active.append(waiting.popleft())
        self._out[lane] += 1
        return active.popleft()

    def take_stopped(self) -> list[LongWork]:
        """Take all work that has not begun and no longer should."""
        stopped: list[LongWork] = []
        for lane, waiting in self._waiting.items():
            stopped += [long for long in waiting if long.work.job.dropped]
            self._waiting[lane] = deque(long for long in waiting if not long.work.job.dropped)
        return stopped


class LongRunner:
    """Makes the device steps of long work, on the device thread.

    Args:
        runtimes: Task name → runtime.
        hooks: Whom to tell.
        lock: Held by whoever looks at the queue or puts work into it.
        room: Told when there is room for more; of that lock.
    """

    def __init__(
        self, runtimes: Mapping[str, Runtime], hooks: Hooks, lock: threading.Lock, room: threading.Condition
    ) -> None:
        self._runtimes = runtimes
        self._hooks = hooks
        self._lock = lock
        self._room = room
        self.queue = LongQueue()
        self.values = 0
        """Input values of all long work here."""
        self.spent_s = 0.0
        """How long steps have taken."""

    def put(self, work: Work) -> None:
        """Add work; its runtime's generator begins with its first step."""
        self.values += work.num_pixels
        self.queue.put(LongWork(work, self._runtimes[work.request.task].steps(work)))

    def drop(self, stopped: Sequence[LongWork]) -> None:
        """Let go of work that has not begun."""
        for long in stopped:
            self._free(long)
            self._hooks.dropped(long.work)

    def run(self, long: LongWork) -> None:
        """Make one step; a stopped job may use one more to hand over the best it has."""
        job = long.work.job
        if job.abandoned or job.handing_back or (job.dropped and long.warned):
            self._end(long)
            end_step(long)
            self._hooks.dropped(long.work)
            return
        long.warned = job.dropped
        started = time.monotonic()
        told = next_step(long)
        self.spent_s += time.monotonic() - started
        if isinstance(told, Progress):
            with self._lock:
                self.queue.again(long)
            self._hooks.progressed(long.work, told)
        else:
            if isinstance(told, BaseException):
                self._let_go(long, told)
            self._end(long)
            self._hooks.finished([long.work], [told])

    def _let_go(self, long: LongWork, error: BaseException) -> None:
        """Free what a failed step has made: others need the memory before anybody has told of the error."""
        traceback.clear_frames(error.__traceback__)
        if is_out_of_memory(error):
            free_memory(self._runtimes[long.work.request.task].hosted.device.torch_device)

    def _end(self, long: LongWork) -> None:
        with self._lock:
            self.queue.done(long)
        self._free(long)

    def _free(self, long: LongWork) -> None:
        with self._lock:
            self.values -= long.work.num_pixels
            self._room.notify_all()


def next_step(long: LongWork) -> Progress | Answer:
    """Make one device step; gives how far the work has come, or what it ended in."""
    try:
        return next(long.steps)
    except StopIteration as end:
        answer: Answer = end.value
    except (Exception, SystemExit) as error:
        if is_fatal(error):
            raise
        return error
    if isinstance(answer, Result | BaseException) or callable(answer):
        return answer
    return TypeError(f"steps() of {long.work.request.task} returned {type(answer).__name__}, not a Result")


def end_step(long: LongWork) -> None:
    """End a generator whose result nobody wants."""
    try:
        long.steps.close()
    except (Exception, SystemExit) as error:
        logger.warning("long work of job %s did not end in good order", long.work.job.claim.job, exc_info=error)
