"""How many images of each task may share a micro-batch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from workers.pace import Pace
from workers.runtime import Runtime

logger = logging.getLogger("visionpipe.limits")


class Limits:
    """The largest micro-batch of every task, in images; for the device thread, and to be looked at by others.

    Args:
        runtimes: Task name → runtime.
        max_batch: What warm-up, or the operator, found to suit.
    """

    def __init__(self, runtimes: Mapping[str, Runtime], max_batch: int) -> None:
        self.max_batch = max_batch
        self._runtimes = runtimes
        self._larger: dict[str, int] = {}
        self._ceilings: dict[str, int] = {}
        self._paces: dict[str, Pace] = {}

    def of(self, task: str) -> int:
        """Give the largest micro-batch of a task."""
        # Warm-up does not tell how long micro-batches of what long tasks do quickly take.
        suits = self._pace(task).size if self._runtimes[task].is_long else self._larger.get(task, self.max_batch)
        return min(suits, self.ceiling(task))

    @property
    def largest(self) -> int:
        """The largest micro-batch of any task."""
        return max(map(self.of, self._runtimes))

    def ceiling(self, task: str) -> int:
        """Most images of a task for which the memory has sufficed, once it did not."""
        return self._ceilings.get(task, sys.maxsize)

    def enlarge(self, task: str, max_batch: int) -> None:
        """Let micro-batches of a task be larger from now on."""
        self._larger[task] = max_batch

    def learn(self, task: str, took_s: float, num_items: int) -> None:
        """Learn from how long a micro-batch took, where no warm-up has told."""
        if self._runtimes[task].is_long:
            self._pace(task).adapt(took_s, num_items)

    def ran_out_of_memory(self, task: str, num_items: int) -> None:
        """Halve what did not fit; other tasks, of other sizes, keep theirs."""
        if num_items > 1 and num_items // 2 < self.of(task):
            self._ceilings[task] = num_items // 2
            logger.warning(
                "out of memory with %d images of %s; its micro-batches are at most %d now",
                num_items,
                task,
                num_items // 2,
            )

    def _pace(self, task: str) -> Pace:
        return self._paces.setdefault(task, Pace(self.max_batch))
