"""The decode threads: a few for each lane, so that interactive images never queue behind bulk ones."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from functools import partial

from visionpipe.schemas.jobs import Lane
from workers.threads import use_cores, vital
from workers.work import Work


class Readers:
    """Threads that read and prepare images.

    An executor would do the same at twice the cost of decoding a small image: it makes a future with a lock for each.

    Args:
        read: What is done with each image; its exceptions end the worker.
        threads: How many there are for each lane.
    """

    def __init__(self, read: Callable[[Work], None], threads: int) -> None:
        self._read = read
        self._threads = threads
        self._queues: dict[Lane, queue.SimpleQueue[Work | None]] = {lane: queue.SimpleQueue() for lane in Lane}
        for lane in Lane:
            for number in range(threads):
                vital(f"decode-{lane}-{number}", partial(self._run, self._queues[lane])).start()

    def put(self, lane: Lane, works: Iterable[Work]) -> None:
        """Hand over images, in the order in which they should be read."""
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
            self._read(work)
