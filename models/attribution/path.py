"""Integrated gradients, a few points of the path at a time.

Shape suffixes: N points, 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attribution.answers import Completeness, Explained, to_map
from models.attribution.attributor import Attributor, Steps, gradient
from models.attribution.question import Question, Settings

MAX_ERROR = 0.01
"""Completeness error at which the number of points is enough, unless it is asked for."""
FIRST_STEPS, MAX_STEPS = 32, 512
"""Points of the first and the last attempt at that."""
PANEL = 256
"""Most points of one Gauss-Legendre rule, whose making costs the cube of their number."""


@dataclass
class _Level:
    """An attempt with a number of points: what they have added up to so far."""

    sum_1CHW: Tensor
    weight: float = 0.0
    done: int = 0


class IntegratedGradients(Attributor):
    """Gradients integrated along the straight path from the baseline (Sundararajan et al., 2017), channels summed.

    Points and weights are those of Gauss and Legendre. Unless ``steps`` says how many, they are doubled until the
    attributions add up to f(x) - f(baseline) within 1 %.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        self._difference: float | None = None
        self._level: _Level | None = None
        self._complete: _Level | None = None

    def steps(self) -> Steps:
        """Integrate, more finely each time."""
        points = self.settings.steps or FIRST_STEPS
        self._difference = self._ends()
        yield 0, points
        while True:
            yield from self._integrate(points)
            if self.settings.steps or points >= MAX_STEPS or self._completeness(self._best).error <= MAX_ERROR:
                return
            self._complete = self._best
            points *= 2

    def _integrate(self, points: int) -> Steps:
        alphas, weights = nodes(points)
        # In an order that covers the path evenly whenever it is left.
        order = np.random.default_rng(self.settings.seed).permutation(points)
        before = self.evaluations
        level = self._level = _Level(torch.zeros_like(self.question.x_1CHW, dtype=torch.float64, device="cpu"))
        while level.done < points:

            def compute(number: int, start: int = level.done) -> Tensor:
                chosen = order[start : start + number]
                return self._weighted(alphas[chosen], weights[chosen])

            added, number = self.pace.run(compute, points - level.done)
            level.weight += float(weights[order[level.done : level.done + number]].sum())
            level.sum_1CHW += added
            level.done += number
            self.evaluations += number
            yield self.evaluations, before + points

    @property
    def expected(self) -> int:
        """About how many images will go through the network."""
        return 2 + (self.settings.steps or FIRST_STEPS)

    @property
    def has_estimate(self) -> bool:
        """Whether a point of the path was computed."""
        return (self._level is not None and self._level.done > 0) or self._complete is not None

    @property
    def _best(self) -> _Level:
        """The level that is under way once it has as many points as the one before."""
        level, complete = self._level, self._complete
        assert level is not None
        return complete if complete is not None and level.done < complete.done else level

    def best(self) -> Explained:
        """Give the attribution of the points so far, as if they were the whole path."""
        level = self._best
        values_CHW = level.sum_1CHW[0] / level.weight
        completeness = self._completeness(level)
        note = None if self.settings.steps or completeness.error <= MAX_ERROR else _missed(completeness, level.done)
        return Explained(to_map(values_CHW.sum(0)), self.evaluations, completeness=completeness, note=note)

    def _completeness(self, level: _Level) -> Completeness:
        assert self._difference is not None
        return Completeness(float(level.sum_1CHW.sum()) / level.weight, self._difference)

    def _ends(self) -> float:
        both = torch.cat([self.question.x_1CHW, self.question.baseline_1CHW])
        with torch.no_grad():
            ends = self.question.classifier(both)[:, self.question.target].double()
        self.evaluations += 2
        return float(ends[0] - ends[1])

    def _weighted(self, alphas: NDArray[np.float64], weights: NDArray[np.float64]) -> Tensor:
        """Sum weight x gradient x (x - baseline) over some points; float64 (1, C, H, W) on the CPU."""
        x, baseline = self.question.x_1CHW, self.question.baseline_1CHW
        alphas_N111 = torch.as_tensor(alphas, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)
        gradients_NCHW = gradient(
            self.question.classifier, baseline + alphas_N111 * (x - baseline), self.question.target
        )
        weights_N = torch.as_tensor(weights, dtype=x.dtype, device=x.device)
        summed_CHW = torch.einsum("n,nchw->chw", weights_N, gradients_NCHW)
        return (summed_CHW * (x - baseline)[0]).double().cpu()[None]


def _missed(completeness: Completeness, points: int) -> str:
    return (
        f"completeness error {completeness.error:.1%} after {points:,} points, above {MAX_ERROR:.0%}: f(image) - "
        f"f(baseline) is {completeness.output_difference:.2g}, the attributions add up to "
        f"{completeness.attribution_sum:.2g}"
    )


def nodes(number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give points in (0, 1) and their weights, which add up to 1: Gauss-Legendre, in panels where they are many."""
    panels = -(-number // PANEL)
    sizes = [number // panels + (index < number % panels) for index in range(panels)]
    starts = np.cumsum([0, *sizes]) / number
    alphas, weights = [], []
    for size, start in zip(sizes, starts, strict=False):
        at, weight = _rule(size)
        width = size / number
        alphas.append(start + width * (1 + at) / 2)
        weights.append(width * weight / 2)
    return np.concatenate(alphas), np.concatenate(weights)


@cache
def _rule(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    made: Any = np.polynomial.legendre.leggauss(size)
    return made[0], made[1]
