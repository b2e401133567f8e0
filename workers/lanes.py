"""Threads that serve both lanes: a few for each, so that interactive images never queue behind bulk ones."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from visionpipe.schemas.images import BlobImage, ImageRef, InlineImage, MediaImage
from visionpipe.schemas.jobs import Lane
from workers.threads import use_cores, vital
from workers.work import Work

SLICE, SLICE_BYTES = 16, 2**16
"""Most images, and encoded bytes, that a thread takes at once: waking a thread costs more than reading a tiny image."""
TINY_S = 0.0006
"""Images of full slices that take less than this each are one thread's work: most of it is Python, which lets no two
threads run, and changing hands makes slower. Digits of 28x28 take half of it on two cores that have other work too."""


_SIZED = (BlobImage, MediaImage)

Waiting = queue.SimpleQueue[Sequence[Work] | None]


class LaneThreads:
    """Threads that do one kind of work on images.

    An executor would do the same at twice the cost of decoding a small image: it makes a future with a lock for each.

    Args:
        name: What the threads do.
        do: What is done with each slice of images; its exceptions end the worker.
        threads: How many there are for each lane.
        need: Waited for, between two slices of bulk work, by all threads but the first; told whether the first
            suffices for images as tiny as its last were.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[Sequence[Work]], None],
        threads: int,
        need: Callable[[Callable[[], bool]], None] | None = None,
    ) -> None:
        self._do = do
        self._tiny_until = float("-inf")
        self._threads = threads
        self._queues: dict[Lane, Waiting] = {lane: queue.SimpleQueue() for lane in Lane}
        for lane in Lane:
            for number in range(threads):
                after: Callable[[int, float], None] = _nothing
                if need is not None and lane is Lane.BULK:
                    after = partial(self._wait, need) if number else self._note
                vital(f"{name}-{lane}-{number}", partial(self._run, self._queues[lane], after)).start()

    def put(self, lane: Lane, works: Iterable[Work]) -> None:
        """Hand over images, in the order in which they should be done."""
        for some in slices(works):
            self._queues[lane].put(some)

    def close(self) -> None:
        """Let the threads end after what they were given."""
        for waiting in self._queues.values():
            for _ in range(self._threads):
                waiting.put(None)

    def _run(self, waiting: Waiting, after: Callable[[int, float], None]) -> None:
        use_cores(1)
        while (some := waiting.get()) is not None:
            number, began = len(some), time.monotonic()
            self._do(some)
            # The last image of a quiet hour would otherwise stay in memory.
            del some
            after(number, began)

    def _note(self, number: int, began: float) -> None:
        """Note whether the first thread suffices for such images: no longer than its next slice of them may take.

        Whatever holds it up then must not hold up the others.
        """
        now, slice_s = time.monotonic(), SLICE * TINY_S
        self._tiny_until = now + slice_s if number == SLICE and now - began < slice_s else began

    def _wait(self, need: Callable[[Callable[[], bool]], None], _number: int, _began: float) -> None:
        need(lambda: time.monotonic() < self._tiny_until)


def _nothing(_number: int, _began: float) -> None:
    """Do nothing after a slice."""


def each(do: Callable[[Work], None]) -> Callable[[Sequence[Work]], None]:
    """Make what does something with one image do it with every image of a slice."""

    def do_each(works: Sequence[Work]) -> None:
        for work in works:
            do(work)

    return do_each


def _size_bytes(ref: ImageRef | None) -> int:
    # A union made for each image would cost as much as the rest.
    if isinstance(ref, _SIZED):
        return ref.size_bytes
    return len(ref.data) if isinstance(ref, InlineImage) else SLICE_BYTES


def slices(works: Iterable[Work]) -> Iterator[Sequence[Work]]:
    """Cut work into slices that a thread takes at once; images of unknown size travel alone."""
    some: list[Work] = []
    num_bytes = 0
    for work in works:
        size = _size_bytes(work.ref)
        if some and (len(some) == SLICE or num_bytes + size > SLICE_BYTES):
            yield some
            some, num_bytes = [], 0
        some.append(work)
        num_bytes += size
    if some:
        yield some
