"""How much work a worker holds, how fast it goes, and from which lanes it therefore takes more."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from visionpipe.queue import Claim
from visionpipe.schemas.jobs import Lane
from workers.tickets import lane_of

WINDOW_S = 2.0
"""Work of one lane that a worker holds, in seconds; enough to keep it busy, little to lose or to wait for."""
MEMORY_S = 15.0
"""How long a past batch counts in the measured rate."""
MIN_INTERACTIVE = 256
"""Interactive images a worker holds at least before it stops taking more."""
MAX_COMING = 8
"""Tickets that wait for their claim at most."""


class Window:
    """Counts held images by lane and measures the rate while busy; safe in threads.

    Args:
        max_batch: Largest micro-batch, in images.
        rate: Images a second, as the warm-up saw it; without it the first window is a mere two micro-batches.
    """

    def __init__(self, max_batch: int, rate: float = 0.0) -> None:
        self._max_batch = max_batch
        self._expected_rate = rate
        self._held = dict.fromkeys(Lane, 0)
        self._load = dict.fromkeys(Lane, 0)
        self._coming = dict.fromkeys(Lane, 0)
        # What a job brings, as the last ones did; the first may bring anything.
        self._usual = dict.fromkeys(Lane, math.inf)
        self._opened: Callable[[], object] = lambda: None
        self._missed: frozenset[Lane] = frozenset()
        self._lock = threading.Lock()
        self._items = self._seconds = 0.0
        self._since = time.monotonic()
        self.done_items = 0

    def on_open(self, opened: Callable[[], object]) -> None:
        """Have something called, from any thread, when a lane opens after ``open_lanes`` found none."""
        self._opened = opened

    def expect(self, lane: Lane) -> None:
        """Count a ticket that was taken."""
        with self._lock:
            self._coming[lane] += 1

    def arrived(self, lane: Lane) -> None:
        """Count no longer a ticket whose job was claimed, and counted if there was one."""
        with self._changing():
            self._coming[lane] -= 1

    @contextmanager
    def reserved(self, claims: Iterable[Claim]) -> Iterator[None]:
        """Count images of jobs that were claimed and are not added yet: reading a large request takes a while."""
        counts = Counter(dict.fromkeys(Lane, 0))
        for claim in claims:
            # Only its request tells how much work an image of it is: as much as the lane's last job, or more.
            usual = self._usual[claim.lane]
            counts[claim.lane] += max(claim.num_open, 0 if math.isinf(usual) else math.ceil(usual))
        self._reserve(counts, 1)
        try:
            yield
        finally:
            self._reserve(counts, -1)

    def _reserve(self, counts: Mapping[Lane, int], sign: int) -> None:
        with self._changing():
            for lane, number in counts.items():
                self._load[lane] += sign * number

    def add(self, lane: Lane, num_items: int, weight: int = 1) -> None:
        """Count images that were claimed; a weight says that each is as much work as so many others."""
        with self._changing():
            if not any(self._held.values()):
                self._since = time.monotonic()
            self._held[lane] += num_items
            self._load[lane] += num_items * weight
            remembered = 0.0 if math.isinf(self._usual[lane]) else self._usual[lane] / 2
            self._usual[lane] = max(num_items * weight, remembered)

    def remove(self, lane: Lane, num_items: int, weight: int = 1, *, num_done: int) -> None:
        """Count images that have left, so many of them with an outcome; the others were dropped."""
        with self._changing():
            self._held[lane] -= num_items
            self._load[lane] -= num_items * weight
            if not num_done:
                return
            now = time.monotonic()
            elapsed, self._since = now - self._since, now
            fade = math.exp(-elapsed / MEMORY_S)
            self._items = self._items * fade + num_done
            self._seconds = self._seconds * fade + elapsed
            self.done_items += num_done

    @property
    def rate(self) -> float | None:
        """Images a second while busy; none before the first."""
        return self._items / self._seconds if self._seconds > 0 else None

    @property
    def held(self) -> int:
        """Images claimed and without an outcome."""
        return sum(self._held.values())

    def open_lanes(self, lanes: Iterable[Lane]) -> set[Lane]:
        """From which of some lanes the worker should take more; if from none, it is told when that changes."""
        with self._lock:
            found = {lane for lane in lanes if self._is_open(lane)}
            self._missed = frozenset() if found else frozenset(lanes)
            return found

    def _is_open(self, lane: Lane) -> bool:
        return self._load[lane] < self._size(lane) and not self._is_waiting

    @property
    def _is_waiting(self) -> bool:
        """Whether tickets that were taken should be claimed before more are: their jobs may fill their window.

        Then no lane is open: kombu, once it waits for tickets of one lane alone, does so for a second.
        """
        filling = (
            number and self._load[lane] + number * self._usual[lane] >= self._size(lane)
            for lane, number in self._coming.items()
        )
        return sum(self._coming.values()) >= MAX_COMING or any(filling)

    def _size(self, lane: Lane) -> float:
        least = 2 * self._max_batch if lane is Lane.BULK else max(MIN_INTERACTIVE, 8 * self._max_batch)
        return max(least, (self.rate or self._expected_rate) * WINDOW_S)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock; tell who found no lane open, if one is now."""
        with self._lock:
            yield
            opens = any(map(self._is_open, self._missed))
            if opens:
                self._missed = frozenset()
        if opens:
            self._opened()


class LaneOrder:
    """Tells kombu which lists to pop from: interactive first, and none whose window is full.

    It is kombu's queue cycle: ``update``, ``consume`` and ``rotate`` are its interface. A pinned and an unpinned list
    of one lane take turns.

    Args:
        window: What the worker holds.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._lists: list[str] = []
        self.consumed_at = time.monotonic()

    def update(self, lists: list[str]) -> None:
        """Take the lists that the worker listens on."""
        self._lists = sorted(lists, key=_urgency)

    def consume(self, _limit: int) -> list[str]:
        """Name the lists for the next pop, most urgent first."""
        self.consumed_at = time.monotonic()
        lanes = self._window.open_lanes([lane_of(name) for name in self._lists])
        return [name for name in self._lists if lane_of(name) in lanes]

    def rotate(self, last_used: str) -> str:
        """Put a list that was popped from behind the others of its lane."""
        self._lists.sort(key=lambda name: (_urgency(name), name == last_used))
        return last_used


def _urgency(name: str) -> int:
    return list(Lane).index(lane_of(name))
