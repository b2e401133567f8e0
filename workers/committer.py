"""Writes outcomes back to the queue, off the device thread unless that has nothing else to do."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from redis import Redis

from visionpipe.errors import QueueUnavailableError, ServiceError
from visionpipe.queue import calls
from visionpipe.schemas.jobs import JobState, Lane, Progress
from visionpipe.wire import error_info
from workers.metrics import Metrics
from workers.outcome import item_json
from workers.parts import Part, hand_back
from workers.persist import persist, run_all
from workers.runtime import Outcome
from workers.threads import vital
from workers.work import HeldJob, Work

logger = logging.getLogger("visionpipe.committer")

MAX_LET_GO = 5
"""How often in a row, without a new outcome, a job is handed back because the store could not be used."""
GIVE_UP_S = 120
"""How long a commit is tried while Redis is away; then the job's lease has long run out."""
TELL_EVERY_S = 0.5
"""A job's progress is recorded at most so often, however fast its steps are."""
SLICE = 32
"""Images whose outcomes are written in one turn."""
TICK_S = 0.5
"""How often finished items of unfinished jobs are looked through while nothing new arrives."""

_URGENCY = {Lane.INTERACTIVE: 0, Lane.BULK: 1}


class Entry(NamedTuple):
    """Images that have left the device together; an outcome is ``None`` where one was dropped."""

    batch: Sequence[Work]
    outcomes: Sequence[Outcome | None]


class Unsent(NamedTuple):
    """A commit that another thread tried once, while Redis was away."""

    part: Part


class Ticketed(NamedTuple):
    """What waits for the committer, in the order in which it is taken."""

    urgency: int
    serial: int
    entry: Entry | Unsent | HeldJob | None

    @property
    def size(self) -> int:
        """Images in it."""
        return len(self.entry.batch) if isinstance(self.entry, Entry) else 0


class Committer:
    """One thread that turns outcomes into items and commits them.

    Args:
        redis: Its own connection pool.
        metrics: Where outcomes are counted.
        settled: Called with images of one job that have left the worker, and how many of them have an outcome.
        ended: Called with a job when its last image has left.
    """

    def __init__(
        self,
        redis: Redis,
        metrics: Metrics,
        *,
        settled: Callable[[Sequence[Work], int], None],
        ended: Callable[[HeldJob], None],
    ) -> None:
        self._redis = redis
        self._metrics = metrics
        self._settled = settled
        self._ended = ended
        self._queue: queue.PriorityQueue[Ticketed] = queue.PriorityQueue()
        self._serial = itertools.count()
        self._pending: dict[HeldJob, None] = {}
        self._busy = threading.Lock()
        self._thread = vital("commit", self._run)
        self._thread.start()

    def put(self, batch: Sequence[Work], outcomes: Sequence[Outcome | None]) -> None:
        """Hand over images with their outcomes, all of one lane; ``None`` for one that was dropped."""
        urgency = _URGENCY[batch[0].job.lane]
        for work, outcome in zip(batch, outcomes, strict=True):
            # At once: another of its images may find no store while these wait for Redis.
            if outcome is not None:
                work.job.got_on = True
        for start in range(0, len(batch), SLICE):
            end = start + SLICE
            self._queue.put(Ticketed(urgency, next(self._serial), Entry(batch[start:end], outcomes[start:end])))

    def commit_here(self, work: Work, outcome: Outcome) -> bool:
        """Commit a job of one image in this thread, which saves it the way to another; not while others wait.

        Returns:
            Whether that was done, if only once: where Redis is away, the committer's own thread tries on.
        """
        if not self._busy.acquire(blocking=False):
            return False
        try:
            if not self._queue.empty():
                return False
            num_done = self._note([work], [outcome])
            del self._pending[work.job]
            part = Part.of(work.job)
            if part.job.lost or self._try(part):
                self._end(part)
            else:
                self._queue.put(Ticketed(_URGENCY[work.job.lane], next(self._serial), Unsent(part)))
            self._settled([work], num_done)
            return True
        finally:
            self._busy.release()

    def let_go(self, work: Work, error: QueueUnavailableError) -> None:
        """Leave an image to whoever claims its job next, which may find Redis and the store again.

        It is no fault of the image, so the job is handed back as if this worker ended; where Redis is away, its lease
        runs out. A stopped job ends here all the same, with the outcomes it has. A job that was handed back often for
        that reason fails with the error, which may be retried.
        """
        job = work.job
        logger.warning("an image of job %s was let go: %s", job.claim.job, error)
        if not job.dropped and job.claim.num_let_go >= MAX_LET_GO and not job.got_on:
            job.stop(JobState.FAILED, error_info(error))
        elif not job.dropped:
            job.let_go = job.handing_back = True
        self.put([work], [None])

    def tell(self, job: HeldJob, progress: Progress) -> None:
        """Have a job's progress recorded soon; one that comes too early after another is left out."""
        now = time.monotonic()
        if now - job.told_at >= TELL_EVERY_S:
            job.told_at, job.progress = now, progress
            self._queue.put(Ticketed(_URGENCY[Lane.BULK], next(self._serial), job))

    def close(self, timeout_s: float) -> None:
        """Commit what was handed over, then end."""
        self._queue.put(Ticketed(len(_URGENCY), next(self._serial), None))
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        closing = False
        while not closing:
            taken = self._take()
            with self._busy:
                closing = self._turn(taken)
            # The last images of a quiet hour would otherwise stay in memory, with the errors that some ended in.
            del taken

    def _turn(self, taken: Sequence[Entry | Unsent | HeldJob | None]) -> bool:
        """Write what was taken; says whether that was the last."""
        left: list[tuple[Sequence[Work], int]] = []
        told: dict[HeldJob, None] = {}
        for entry in taken:
            if isinstance(entry, HeldJob):
                told[entry] = None
            elif isinstance(entry, Unsent):
                self._send([entry.part])
                self._end(entry.part)
            elif entry is not None:
                left += [(works, self._note(works, some)) for works, some in _by_job(entry)]
        closing = None in taken
        self._commit([job for job in self._pending if closing or job.suspect or job.is_due])
        self._record(list(told))
        for works, num_done in left:
            self._settled(works, num_done)
        return closing

    def _take(self) -> list[Entry | Unsent | HeldJob | None]:
        """Wait for something, then take more of it: many small jobs then share a round trip.

        A turn is no longer than one slice of bulk work, after which interactive work has its chance again.
        """
        try:
            first = self._queue.get(timeout=TICK_S if self._pending else None)
        except queue.Empty:
            return []
        taken = [first.entry]
        num_items = first.size
        while num_items < SLICE and taken[-1] is not None and not self._queue.empty():
            following = self._queue.get()
            taken.append(following.entry)
            num_items += following.size
        return taken

    def _note(self, works: Sequence[Work], outcomes: Sequence[Outcome | None]) -> int:
        """Write the items of one job; says how many of its images have an outcome."""
        job = works[0].job
        told = zip(works, outcomes, strict=True) if not job.lost else ()
        written = [(work, item_json(work, outcome)) for work, outcome in told if outcome is not None]
        self._metrics.count(job, [(work, item[1]) for work, item in written])
        job.settle([item for _, item in written], len(works) - len(written))
        self._pending[job] = None
        return len(written)

    def _commit(self, jobs: Sequence[HeldJob]) -> None:
        parts = [Part.of(job) for job in jobs]
        for job in jobs:
            del self._pending[job]
        self._send([part for part in parts if not part.job.lost and (part.outcomes or part.last)])
        for part in parts:
            if part.last:
                self._end(part)

    def _try(self, part: Part) -> bool:
        """Send a commit without waiting for an absent Redis to return; says whether Redis has answered."""
        try:
            # Not patient: it takes the device thread's time.
            return not self._attempt([part], patient=False)
        except ServiceError:
            return False

    def _attempt(self, parts: list[Part], *, patient: bool = True) -> list[Part]:
        """Send commits once; gives those that Redis refused."""
        answers = run_all(self._redis, [part.call() for part in parts], patient=patient)
        for part, held in zip(parts, answers, strict=True):
            if held is False:
                logger.warning("job %s is no longer held here; outcomes thrown away", part.job.claim.job)
                part.job.lost = True
        return [part for part, held in zip(parts, answers, strict=True) if held is None]

    def _send(self, parts: list[Part]) -> None:
        def attempt() -> None:
            nonlocal parts
            parts = self._attempt(parts)
            if parts:
                raise QueueUnavailableError(f"Redis refused to commit {len(parts)} jobs.")

        if not parts:
            return
        try:
            persist(attempt, give_up_s=GIVE_UP_S)
        except ServiceError as error:
            logger.error("gave up committing %d jobs: %s", len(parts), error)
            for part in parts:
                part.job.lost = True

    def _end(self, part: Part) -> None:
        job = part.job
        # A stop that came after this commit was made is for the queue to carry out.
        if job.handing_back and job.num_dropped and part.final is None and not job.lost:
            hand_back(self._redis, job)
        self._ended(job)

    def _record(self, jobs: Sequence[HeldJob]) -> None:
        told = [(job, job.progress) for job in jobs if job.progress is not None and not job.lost]
        if not told:
            return
        try:
            progresses = [calls.progress(job.claim.job, job.claim.token, progress) for job, progress in told]
            answers = run_all(self._redis, progresses, patient=False)
        except ServiceError as error:
            logger.warning("progress of %d jobs not recorded: %s", len(told), error)
            return
        for (job, _), held in zip(told, answers, strict=True):
            job.lost = job.lost or held is False


def _by_job(entry: Entry) -> Iterator[tuple[Sequence[Work], Sequence[Outcome | None]]]:
    start = 0
    for _, same in itertools.groupby(entry.batch, key=attrgetter("job")):
        end = start + sum(1 for _ in same)
        yield entry.batch[start:end], entry.outcomes[start:end]
        start = end
