"""Painting a content in the style of others (Gatys, Ecker, Bethge 2015), an evaluation of the loss at a time.

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from models.gatys import colour
from models.gatys.canvas import Canvas
from models.gatys.descent import Descent
from models.gatys.losses import Terms
from models.gatys.objective import Objective
from models.gatys.pictures import Pixels, to_pixels

PATIENCE = 40
"""Evaluations after which too small a gain means that nothing is left to gain."""
MIN_GAIN = 1e-3
"""The relative fall of the loss over ``PATIENCE`` evaluations below which painting ends."""
LEAST_LOSS = 1e-6
"""A total loss below which nothing is left to gain either."""
NOISE_SPREAD = 0.15
"""Standard deviation of the noise to start from, around middle grey."""


class Style(NamedTuple):
    """One picture whose style is wanted: float32 (1, 3, h, w) in [0, 1], and its share among the styles."""

    picture: Tensor
    share: float = 1.0


@dataclass(frozen=True)
class Plan:
    """How to paint."""

    steps: int = 200
    """Evaluations after that of the initial image."""
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """What moves the pixels."""
    learning_rate: float | None = None
    """Its step size; unset means the optimizer's own."""
    init: Literal["content", "noise"] = "content"
    """What to start from."""
    preserve_colour: Literal["no", "luminance", "histogram"] = "no"
    """Keep the content's colours."""
    seed: int = 0
    """Of the noise."""


class Evaluated(NamedTuple):
    """One evaluation: 0 is the initial image."""

    step: int
    terms: Terms


class Painting:
    """A painting in progress; keeps the image of the lowest loss.

    Args:
        objective: Encoder and weights; used by this painting alone.
        content_1CHW: float32 (1, 3, H, W) in [0, 1], of the output's size.
        styles: At least one.
        plan: How to paint.
    """

    def __init__(self, objective: Objective, content_1CHW: Tensor, styles: Sequence[Style], plan: Plan) -> None:
        self._objective = objective
        self._plan = plan
        self._content = content_1CHW
        self._styles = styles
        self._image: Tensor | None = None
        self._canvas: Canvas | None = None
        self.history: list[Evaluated] = []
        self.best: Evaluated | None = None
        self.converged = False

    def run(self) -> Generator[Evaluated | None, None, None]:
        """Paint; yields after each device step: an evaluation that is complete, or ``None``."""
        canvas = yield from self._begin()
        descent = Descent(canvas, self._plan.optimizer, self._plan.learning_rate)
        for step in range(self._plan.steps + 1):
            image = canvas.image()
            leaf = image.detach().clamp(0, 1).contiguous().requires_grad_()
            terms = yield from self._objective.evaluate(leaf)
            self._note(Evaluated(step, terms), leaf.detach())
            yield Evaluated(step, terms)
            if self._is_converged():
                self.converged = True
                return
            if step < self._plan.steps:
                assert leaf.grad is not None
                descent.move(image, _inward(image.detach(), leaf.grad), terms.total)

    @property
    def cost_pixels(self) -> float:
        """What one evaluation costs, in pixels that are evaluated at once."""
        height, width = self._content.shape[-2:]
        return self._objective.cost_pixels((height, width))

    def picture(self) -> Pixels:
        """Give the best so far, uint8 (H, W, 3).

        Raises:
            RuntimeError: Nothing was evaluated yet.
        """
        if self._canvas is None or self._image is None:
            raise RuntimeError("nothing was painted yet")
        return to_pixels(self._canvas.picture(self._image))

    def _begin(self) -> Generator[None, None, Canvas]:
        device = self._objective.encoder.device
        content = self._content.to(device)
        keeps_luminance = self._plan.preserve_colour == "luminance"
        for style in self._styles:
            picture = _toned(style.picture.to(device), content, self._plan.preserve_colour)
            yield from self._objective.add_style(picture.expand(-1, 3, -1, -1), style.share)
        seen = colour.luminance(content) if keeps_luminance else content
        yield from self._objective.set_content(seen.expand(-1, 3, -1, -1))
        self._canvas = Canvas(self._start(seen), content if keeps_luminance else None)
        return self._canvas

    def _start(self, seen_1CHW: Tensor) -> Tensor:
        if self._plan.init == "content":
            return seen_1CHW
        generator = torch.Generator().manual_seed(self._plan.seed)
        noise = torch.randn(seen_1CHW.shape, generator=generator)
        return (0.5 + NOISE_SPREAD * noise).clamp(0, 1).to(seen_1CHW.device)

    def _note(self, evaluated: Evaluated, image_1CHW: Tensor) -> None:
        self.history.append(evaluated)
        total = evaluated.terms.total
        if self.best is None or (math.isfinite(total) and total < self.best.terms.total):
            self.best, self._image = evaluated, image_1CHW

    def _is_converged(self) -> bool:
        lowest = min(evaluated.terms.total for evaluated in self.history)
        if lowest < LEAST_LOSS:
            return True
        if len(self.history) <= PATIENCE:
            return False
        before = min(evaluated.terms.total for evaluated in self.history[:-PATIENCE])
        return lowest >= before * (1 - MIN_GAIN)


def _inward(image_1CHW: Tensor, gradient_1CHW: Tensor) -> Tensor:
    """Drop what would move values outside [0, 1] further out: they are shown clipped."""
    outward = ((image_1CHW < 0) & (gradient_1CHW > 0)) | ((image_1CHW > 1) & (gradient_1CHW < 0))
    return gradient_1CHW.masked_fill(outward, 0)


def _toned(style_1CHW: Tensor, content_1CHW: Tensor, preserve_colour: str) -> Tensor:
    if preserve_colour == "luminance":
        return colour.match_luminance(style_1CHW, content_1CHW)
    return colour.match_colours(style_1CHW, content_1CHW) if preserve_colour == "histogram" else style_1CHW
