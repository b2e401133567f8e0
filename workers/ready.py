"""Prepared images that wait for the device, in one queue for each lane."""

from __future__ import annotations

from collections import deque

from visionpipe.schemas.jobs import Lane
from workers.work import Work

MAX_BATCH_VALUES = 64 * 2**20
"""Input values (C x H x W summed over images) in one micro-batch: 256 MiB of float32."""


class Ready:
    """The queues; whoever shares them between threads holds a lock."""

    def __init__(self) -> None:
        self._queues: dict[Lane, deque[Work]] = {lane: deque() for lane in Lane}
        self._values = dict.fromkeys(Lane, 0)

    def count(self, lane: Lane) -> int:
        """Images that wait."""
        return len(self._queues[lane])

    def values(self, lane: Lane) -> int:
        """Input values of them all."""
        return self._values[lane]

    def next_task(self, lane: Lane) -> str | None:
        """Whose images are taken next; none where none wait."""
        queue = self._queues[lane]
        return queue[0].request.task if queue else None

    def has_full_batch(self, lane: Lane, max_batch: int) -> bool:
        """Whether a micro-batch would not grow by waiting."""
        return len(self._queues[lane]) >= max_batch or self._values[lane] >= MAX_BATCH_VALUES

    def put(self, lane: Lane, work: Work) -> None:
        """Add one."""
        self._queues[lane].append(work)
        self._values[lane] += work.num_pixels

    def take(self, lane: Lane, max_batch: int) -> list[Work]:
        """Take the oldest and whatever may share its micro-batch."""
        queue = self._queues[lane]
        key, values = (queue[0].request.task, queue[0].key), 0
        batch: list[Work] = []
        skipped: list[Work] = []
        while queue and len(batch) < max_batch:
            work = queue.popleft()
            if (work.request.task, work.key) != key or (batch and values + work.num_pixels > MAX_BATCH_VALUES):
                skipped.append(work)
                continue
            batch.append(work)
            values += work.num_pixels
        queue.extendleft(reversed(skipped))
        self._values[lane] -= values
        return batch
