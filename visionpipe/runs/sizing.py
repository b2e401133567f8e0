"""How many images travel in one chunk: about two seconds of one worker's work."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from visionpipe.schemas.jobs import WorkerRecord
from visionpipe.windows import rate_of

TARGET_S = 2.0
FIRST_ITEMS = 16
MAX_ITEMS = 512
CHUNKS_PER_WORKER = 3
"""One being worked on, one waiting, one on its way: a worker never waits for the run."""


@dataclass
class Sizer:
    """Adapts the size of chunks to what the workers achieve.

    Args:
        fixed: Always this many; ``None`` adapts.
    """

    fixed: int | None = None
    _size: int = field(default=FIRST_ITEMS, init=False)
    _settled: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=32), init=False)
    _workers: int = field(default=1, init=False)
    _announced: float | None = field(default=None, init=False)

    @property
    def window(self) -> int:
        """Chunks to keep in flight."""
        return CHUNKS_PER_WORKER * self._workers

    def observe(self, workers: Sequence[WorkerRecord]) -> None:
        """Take note of the live workers of the run's model."""
        self._workers = max(1, len(workers))
        rates = [worker.rate for worker in workers if worker.rate]
        self._announced = sum(rates) / len(rates) if rates else None
        if self._announced is not None and not self._settled:
            self._size = _clamp(min(FIRST_ITEMS, self._announced * TARGET_S))

    def learn(self, items: int, now_s: float) -> None:
        """Take note of a chunk that was settled at ``now_s``; a size grows at most twofold each time."""
        self._settled.append((now_s, items))
        rates = [rate for rate in (self._announced, self._measured()) if rate is not None]
        if rates:
            # A worker that was starved announces less than it can do, hence the larger of the two.
            self._size = _clamp(min(max(rates) * TARGET_S, 2 * self._size))

    def _measured(self) -> float | None:
        rate = rate_of(self._settled)
        return None if rate is None else rate / self._workers

    def next_size(self, remaining: int) -> int:
        """Size of the next chunk; the last ones shrink so that all workers end together.

        Args:
            remaining: Images not yet submitted.
        """
        if self.fixed is not None:
            return self.fixed
        share = math.ceil(remaining / (2 * self._workers))
        return max(1, min(self._size, max(share, FIRST_ITEMS)))


def _clamp(items: float) -> int:
    return max(1, min(MAX_ITEMS, int(items)))
