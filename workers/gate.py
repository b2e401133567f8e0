"""A queue before the worker's other queues, for images of which only a few may be under way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from visionpipe.schemas.jobs import Lane
from workers.work import HeldJob, Work


class Gate:
    """Lets some images into the worker at a time, interactive ones first, and stopped ones at once; safe in threads.

    Args:
        begin: Takes one whose turn it is, or whose job was stopped.
        most: How many may be in the worker.
    """

    def __init__(self, begin: Callable[[Work], None], most: int = 1) -> None:
        self._begin = begin
        self._most = most
        self._waiting: dict[Lane, dict[HeldJob, deque[Work]]] = {lane: {} for lane in Lane}
        self._present: set[Work] = set()
        self._lock = threading.Lock()

    def put(self, job: HeldJob, works: Sequence[Work]) -> None:
        """Add the images of a job."""
        with self._lock:
            if works:
                self._waiting[job.lane][job] = deque(works)
        self.admit()

    def settled(self, works: Sequence[Work]) -> None:
        """Let others in for those that have left the worker."""
        with self._lock:
            self._present.difference_update(works)
        self.admit()

    def admit(self) -> None:
        """Let in whoever may; to be called now and then while jobs may be stopped."""
        # Looked at without the lock: most of the time nobody waits.
        while any(self._waiting.values()):
            with self._lock:
                work = self._next()
            if work is None:
                return
            self._begin(work)

    def _next(self) -> Work | None:
        room = len(self._present) < self._most
        for job, works in chain.from_iterable(jobs.items() for jobs in self._waiting.values()):
            if room or job.dropped:
                work = works.popleft()
                if not works:
                    del self._waiting[job.lane][job]
                self._present.add(work)
                return work
        return None
