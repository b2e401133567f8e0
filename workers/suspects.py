"""Images of jobs whose worker died: one at a time, so that the mark in Redis names the only one that can be guilty."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from visionpipe.schemas.jobs import Lane
from workers.work import Work


class Suspects:
    """A queue that lets one image into the worker at a time; safe in threads.

    Args:
        begin: Takes the one whose turn it is.
    """

    def __init__(self, begin: Callable[[Work], None]) -> None:
        self._begin = begin
        self._waiting: deque[Work] = deque()
        self._present: Work | None = None
        self._lock = threading.Lock()

    def put(self, lane: Lane, works: Sequence[Work]) -> None:
        """Add the images of one job, interactive ones before all others."""
        with self._lock:
            if lane is Lane.INTERACTIVE:
                self._waiting.extendleft(reversed(works))
            else:
                self._waiting.extend(works)
        self.settled(None)

    def settled(self, work: Work | None) -> None:
        """Let the next one in, once the present one has left the worker."""
        with self._lock:
            if work is self._present:
                self._present = None
            if self._present is not None or not self._waiting:
                return
            self._present = self._waiting.popleft()
            self._begin(self._present)
