"""Moving a canvas down the gradient, one evaluation at a time."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from models.gatys.canvas import Canvas

LEARNING_RATE = {"lbfgs": 1.0, "adam": 0.02}
"""Step sizes unless told otherwise."""
HISTORY = 20
"""Pairs of steps and gradients from which L-BFGS knows the curvature."""
MAX_RISE = 1.5
"""A loss so many times the lowest was a step too far."""
SHRINK = 0.3
"""What is left of a step that went too far."""
MAX_SHRINKS = 6
"""After so many in a row what the optimizer knew is no good."""


class Descent:
    """An optimizer that is handed loss and gradient instead of asking for them.

    L-BFGS makes one iteration without a line search per evaluation; torch then asks for the loss just once. A step
    that goes too far is shortened until it does not, one evaluation each time.

    Args:
        canvas: What is moved.
        optimizer: ``lbfgs`` or ``adam``.
        learning_rate: Step size; unset means ``LEARNING_RATE``.
    """

    def __init__(self, canvas: Canvas, optimizer: Literal["lbfgs", "adam"], learning_rate: float | None) -> None:
        self._variable = canvas.variable
        self._name = optimizer
        self._rate = LEARNING_RATE[optimizer] if learning_rate is None else learning_rate
        self._lowest = math.inf
        self._before = self._variable.detach().clone()
        self._shrinks = 0
        self._optimizer = self._make()

    def move(self, image_1CHW: Tensor, gradient_1CHW: Tensor, loss: float) -> None:
        """Make one step.

        Args:
            image_1CHW: What the canvas gave for this evaluation.
            gradient_1CHW: The loss' gradient with respect to it.
            loss: At that image.
        """
        if not math.isfinite(loss) or loss > MAX_RISE * self._lowest:
            self._shrink()
            return
        self._shrinks = 0
        self._lowest = min(self._lowest, loss)
        self._optimizer.zero_grad()
        image_1CHW.backward(gradient_1CHW)  # type: ignore[no-untyped-call]
        self._before.copy_(self._variable.detach())
        self._optimizer.step(lambda: loss)

    @torch.no_grad()
    def _shrink(self) -> None:
        self._shrinks += 1
        if self._shrinks > MAX_SHRINKS:
            self._variable.copy_(self._before)
            self._shrinks, self._rate, self._lowest = 0, self._rate / 2, math.inf
            self._optimizer = self._make()
            return
        self._variable.copy_(self._before + SHRINK * (self._variable - self._before))
        state = self._optimizer.state[self._variable]
        if "t" in state:
            # L-BFGS learns the curvature from the step that it believes it made.
            state["t"] *= SHRINK

    def _make(self) -> torch.optim.Optimizer:
        if self._name == "adam":
            return torch.optim.Adam([self._variable], lr=self._rate)
        return torch.optim.LBFGS(
            [self._variable],
            lr=self._rate,
            max_iter=1,
            history_size=HISTORY,
            tolerance_grad=0,
            tolerance_change=0,
        )
