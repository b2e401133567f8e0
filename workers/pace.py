"""How long a step of the device may take, and sizes of steps that are learned while they are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from workers.device import free_memory, is_out_of_memory

TARGET_STEP_S = 0.25
"""A micro-batch should take no longer than this, since interactive work waits for it."""


@dataclass
class Pace:
    """How many images, or slices of one, make a device step, so that it is no longer than ``TARGET_STEP_S``.

    Attributes:
        most: At most so many: the largest micro-batch.
        size: How many now.
    """

    most: int
    size: int = 1

    def adapt(self, took_s: float, num_items: int) -> None:
        """Learn from a step."""
        if took_s > TARGET_STEP_S:
            self.size = max(self.size // 2, 1)
        elif num_items == self.size and took_s < TARGET_STEP_S / 2:
            self.size = min(2 * self.size, self.most)

    def attempt(self, step: Callable[[int], None], device: torch.device) -> None:
        """Make a step of the present size, or a smaller one where the memory does not suffice."""
        while True:
            try:
                step(self.size)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.size == 1:
                    raise
            free_memory(device)
            self.most = self.size = self.size // 2
