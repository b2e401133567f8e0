"""Long work: generators that make a device step at a time, taken in turns."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field

from visionpipe.schemas.jobs import Lane, Progress
from visionpipe.schemas.results import Result
from workers.device import is_fatal
from workers.runtime import Answer
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
