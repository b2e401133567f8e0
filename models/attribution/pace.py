"""How many images a device step takes, so that whoever waits for the device does not wait long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

AWAITED_STEP_S = 0.01
"""What a step should take, at most, while others want the device: hardly longer than what they wait for anyhow."""


class Pace:
    """Adapts the micro-batch to the time that a device step should take, and to the memory there is.

    Args:
        max_batch: Most images at once.
        step_s: What a step should take while nobody else wants the device.
        is_awaited: Whether others do, now and then.
    """

    def __init__(self, max_batch: int, step_s: float, is_awaited: Callable[[], bool] = lambda: False) -> None:
        self._max = max(1, max_batch)
        self._step_s = step_s
        self._is_awaited = is_awaited
        self._image_s = 0.0
        self.size = 1

    def run(self, compute: Callable[[int], T], left: int) -> tuple[T, int]:
        """Make one step of as many images as fit; gives what it computed, and how many there were.

        Args:
            compute: Computes that many images, and waits until the device is done.
            left: How many are left in all, at least 1.
        """
        number = min(self.size, left)
        started = time.perf_counter()
        try:
            answer = compute(number)
        except torch.OutOfMemoryError:
            if number == 1:
                raise
        else:
            self._learn(number, time.perf_counter() - started)
            return answer, number
        # Out here the failed step's tensors can be let go of.
        torch.cuda.empty_cache()
        self._max = self.size = number // 2
        return self.run(compute, left)

    def _learn(self, number: int, taken_s: float) -> None:
        # One quick step among slow ones must not make the next one long, which somebody may wait for.
        self._image_s = max(taken_s / number, 0.7 * self._image_s, 1e-9)
        step_s = min(self._step_s, AWAITED_STEP_S) if self._is_awaited() else self._step_s
        fitting = int(step_s / self._image_s)
        self.size = max(1, min(fitting, 2 * self.size, self._max))
