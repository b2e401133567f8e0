"""How much of a stream of images is under way at once, and how it is cut into jobs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.requests import MAX_IMAGES

FIRST_CHUNK, MOST_CHUNK = 32, 128
"""Images in one job, to begin with and where they are answered fast."""
CHUNK_S = 0.05
"""A job that takes much longer than that costs next to nothing by itself, so it need not be larger."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """How much of a stream is under way at once."""

    jobs: int = 8
    """Jobs under way."""
    chunk: int | None = None
    """Images in one job; unset takes more where they are answered fast."""
    chunk_bytes: int = 4 * 2**20
    """Encoded bytes after which a job takes no further image."""
    total_bytes: int = 64 * 2**20
    """Encoded bytes under way; one larger chunk may go alone."""

    def __post_init__(self) -> None:
        if self.jobs < 1 or not 1 <= self.first_chunk <= MAX_IMAGES:
            raise InvalidRequestError(
                f"expected a window of at least 1 job and chunks of 1 to {MAX_IMAGES} images, "
                f"got {self.jobs} and {self.first_chunk}"
            )

    @property
    def first_chunk(self) -> int:
        """Images in the first job."""
        return FIRST_CHUNK if self.chunk is None else self.chunk


def rate_of(ended: Sequence[tuple[float, int]]) -> float | None:
    """Give items a second from (time, items) of jobs that ended, in order; none where they tell nothing.

    The first only starts the clock: how long it waited for its turn says nothing about the worker.
    """
    first_s, last_s = ended[0][0], ended[-1][0]
    return (sum(items for _, items in ended) - ended[0][1]) / (last_s - first_s) if last_s > first_s else None


class Cut:
    """Decides how many images the next job of a stream takes, from how fast the last ones were answered."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.size = window.first_chunk
        """Images in the next job."""
        self._answered: deque[tuple[float, int]] = deque(maxlen=window.jobs + 1)

    def begin(self, now_s: float) -> None:
        """Start the clock: the first jobs may come back at one moment, however long they took."""
        self._answered.append((now_s, 0))

    def learn(self, images: int, now_s: float) -> None:
        """Take note of a job that was answered, and its answers handed out, at ``now_s``."""
        if self.window.chunk is not None:
            return
        self._answered.append((now_s, images))
        rate = rate_of(self._answered)
        if rate is not None:
            self.size = max(FIRST_CHUNK, min(MOST_CHUNK, math.ceil(rate * CHUNK_S)))
