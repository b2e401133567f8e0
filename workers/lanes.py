"""Threads that serve both lanes: a few for each, so that interactive images never queue behind bulk ones."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from functools import partial

from visionpipe.schemas.jobs import Lane
from workers.threads import use_cores, vital
from workers.work import Work


class LaneThreads:
    """Threads that do one kind of work on images.

    An executor would do the same at twice the cost of decoding a small image: it makes a future with a lock for each.

    Args:
        name: What the threads do.
        do: What is done with each image; its exceptions end the worker.
        threads: How many there are for each lane.
    """

    def __init__(self, name: str, do: Callable[[Work], None], threads: int) -> None:
        self._do = do
        self._threads = threads
        self._queues: dict[Lane, queue.SimpleQueue[Work | None]] = {lane: queue.SimpleQueue() for lane in Lane}
        for lane in Lane:
            for number in range(threads):
                vital(f"{name}-{lane}-{number}", partial(self._run, self._queues[lane])).start()

    def put(self, lane: Lane, works: Iterable[Work]) -> None:
        """Hand over images, in the order in which they should be done."""
        for work in works:
            self._queues[lane].put(work)

    def close(self) -> None:
        """Let the threads end after what they were given."""
        for waiting in self._queues.values():
            for _ in range(self._threads):
                waiting.put(None)

    def _run(self, waiting: queue.SimpleQueue[Work | None]) -> None:
        use_cores(1)
        while (work := waiting.get()) is not None:
            self._do(work)
            # The last image of a quiet hour would otherwise stay in memory.
            del work
