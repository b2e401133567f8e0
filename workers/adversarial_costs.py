"""What passes of an attack cost, and how many pictures share one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.attacks import LevelClassifier, Plan, Subject

MAC_BUDGET = {"cpu": 6e9, "cuda": 1e12}
"""Multiply-adds of a micro-batch, forwards and backwards: about a tenth of a second on an ordinary device."""
VALUE_BUDGET = 2**23
"""Values in the inputs of a micro-batch, so that its activations fit into memory."""
BACKWARD = 3
"""A forward and a backward pass cost about as much as so many forward passes."""

_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class Costs:
    """Of one network on one device.

    Args:
        device: Where it computes.
        max_batch: Most pictures in a micro-batch, as the card says.

    Attributes:
        s_per_value: Seconds of a forward and backward pass per value of the input, as measured so far.
        macs_per_value: Multiply-adds of a forward pass per value of the input.
    """

    def __init__(self, device: torch.device, max_batch: int) -> None:
        self._device = device
        self._max_batch = max_batch
        self.s_per_value = 0.0
        self.macs_per_value = 0.0

    @torch.no_grad()
    def count(self, network: LevelClassifier, subject: Subject) -> None:
        """Count the multiply-adds of one picture in convolutions and linear layers."""
        # torch's own counter takes seconds to import, which every start of a worker would pay.
        macs: list[int] = []

        def add(layer: nn.Module, _: Any, output: Tensor) -> None:
            assert isinstance(layer, _COUNTED)
            macs.append(output.numel() * layer.weight[0].numel())

        hooks = [layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, _COUNTED)]
        try:
            network(subject.levels[None].to(self._device, torch.float32))
        finally:
            for hook in hooks:
                hook.remove()
        self.macs_per_value = sum(macs) / subject.levels.numel()

    def max_batch(self, num_values: int) -> int:
        """Say how many pictures share a micro-batch."""
        # Nothing measured goes into it: another size would round otherwise, and another attack would come of it.
        macs = BACKWARD * self.macs_per_value * num_values
        budget = MAC_BUDGET["cpu" if self._device.type == "cpu" else "cuda"]
        room = [self._max_batch, VALUE_BUDGET // num_values]
        return max(1, min([*room, int(budget / macs)] if macs else room))

    def expect_s(self, plan: Plan, num_values: int) -> float:
        """Guess the seconds of an attack."""
        return plan.num_passes() * num_values * self.s_per_value

    def learn(self, plan: Plan, num_values: int, spent_s: float) -> None:
        """Let the next guess start from what an attack has cost."""
        self.s_per_value += (spent_s / plan.num_passes() / num_values - self.s_per_value) / 2
