"""How much work a worker holds, how fast it goes, and from which lanes it therefore takes more."""

from __future__ import annotations

import math
import threading
import time

from visionpipe.schemas.jobs import Lane

WINDOW_S = 2.0
"""Bulk work a worker holds, in seconds; enough to keep it busy, little to lose or to wait for."""
MEMORY_S = 15.0
"""How long a past batch counts in the measured rate."""
MIN_INTERACTIVE = 256
"""Interactive images a worker holds at least before it stops taking more."""


class Window:
    """Counts held images by lane and measures the rate while busy; safe in threads.

    Args:
        max_batch: Largest micro-batch, in images.
    """

    def __init__(self, max_batch: int) -> None:
        self._max_batch = max_batch
        self._held = dict.fromkeys(Lane, 0)
        self._lock = threading.Lock()
        self._items = self._seconds = 0.0
        self._since = time.monotonic()
        self.done_items = 0

    def add(self, lane: Lane, num_items: int) -> None:
        """Count images that were claimed."""
        with self._lock:
            if not any(self._held.values()):
                self._since = time.monotonic()
            self._held[lane] += num_items

    def remove(self, lane: Lane, num_items: int, *, done: bool) -> None:
        """Count images that got an outcome, or were dropped."""
        with self._lock:
            self._held[lane] -= num_items
            if not done:
                return
            now = time.monotonic()
            elapsed, self._since = now - self._since, now
            fade = math.exp(-elapsed / MEMORY_S)
            self._items = self._items * fade + num_items
            self._seconds = self._seconds * fade + elapsed
            self.done_items += num_items

    @property
    def rate(self) -> float | None:
        """Images a second while busy; none before the first."""
        return self._items / self._seconds if self._seconds > 0 else None

    @property
    def held(self) -> int:
        """Images claimed and without an outcome."""
        return sum(self._held.values())

    def is_open(self, lane: Lane) -> bool:
        """Whether the worker should take more from a lane."""
        if lane is Lane.INTERACTIVE:
            return self._held[lane] < max(MIN_INTERACTIVE, 8 * self._max_batch)
        return self._held[lane] < max(2 * self._max_batch, (self.rate or 0.0) * WINDOW_S)


class LaneOrder:
    """Tells kombu which lists to pop from: interactive first, and none whose window is full.

    It is kombu's queue cycle: ``update``, ``consume`` and ``rotate`` are its interface.

    Args:
        window: What the worker holds.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._lists: list[str] = []
        self.consumed_at = time.monotonic()

    def update(self, lists: list[str]) -> None:
        """Take the lists that the worker listens on."""
        self._lists = sorted(lists, key=lambda name: not name.endswith(f":{Lane.INTERACTIVE}"))

    def consume(self, _limit: int) -> list[str]:
        """Name the lists for the next pop, most urgent first."""
        self.consumed_at = time.monotonic()
        return [name for name in self._lists if self._window.is_open(Lane(name.rpartition(":")[2]))]

    def rotate(self, last_used: str) -> str:
        """Keep the order: urgency does not rotate."""
        return last_used
