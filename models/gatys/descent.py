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
MAX_RISE = 2.0
"""A loss so many times the lowest was a step too far."""
SHRINK = 0.5
"""What a step too far does to the step size."""


class Descent:
    """An optimizer that is handed loss and gradient instead of asking for them.

    L-BFGS makes one iteration without a line search per evaluation; torch then asks for the loss just once. A step
    that goes too far is taken back, and the optimizer forgets what it knew.

    Args:
        canvas: What is moved.
        optimizer: ``lbfgs`` or ``adam``.
        learning_rate: Step size; unset means ``LEARNING_RATE``.
    """

    def __init__(self, canvas: Canvas, optimizer: Literal["lbfgs", "adam"], learning_rate: float | None) -> None:
        self._canvas = canvas
        self._name = optimizer
        self._rate = LEARNING_RATE[optimizer] if learning_rate is None else learning_rate
        self._lowest = math.inf
        self._optimizer = self._make()

    def move(self, image_1CHW: Tensor, gradient_1CHW: Tensor, loss: float, best_1CHW: Tensor) -> None:
        """Make one step.

        Args:
            image_1CHW: What the canvas gave for this evaluation.
            gradient_1CHW: The loss' gradient with respect to it.
            loss: At that image.
            best_1CHW: The image of the lowest loss, to which a step too far leads back.
        """
        if not math.isfinite(loss) or loss > MAX_RISE * self._lowest:
            self._rate *= SHRINK
            self._canvas.restart(best_1CHW)
            self._optimizer = self._make()
            return
        self._lowest = min(self._lowest, loss)
        self._optimizer.zero_grad()
        image_1CHW.backward(gradient_1CHW)  # type: ignore[no-untyped-call]
        self._optimizer.step(lambda: loss)

    def _make(self) -> torch.optim.Optimizer:
        if self._name == "adam":
            return torch.optim.Adam([self._canvas.variable], lr=self._rate)
        return torch.optim.LBFGS(
            [self._canvas.variable],
            lr=self._rate,
            max_iter=1,
            history_size=HISTORY,
            tolerance_grad=0,
            tolerance_change=0,
        )
