"""The sets of allowed changes, in whole grey levels.

Epsilons are distances between pictures with values in [0, 1]; everything else here counts in levels of 1/255, because
that is what a file can hold. A change is bounded after it has been rounded, by integer arithmetic.

Shape suffixes: N changes, C channels, H height, W width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Norm = Literal["linf", "l2"]
"""Largest change of any value, or root of the summed squares."""

LEVELS = 255
"""Steps from black to white."""
MAX_EPSILON = 1e6
"""Beyond this every picture that can be stored is within the ball."""
BISECTIONS = 30
"""Halvings in the search for the scale at which a rounded change has the length that is wanted."""
SLACK = 1e-6
"""Relative rounding error of a length in single precision."""


class Ball(ABC):
    """One norm's balls around pictures in [0, 255]."""

    @abstractmethod
    def limit(self, epsilon: float) -> int:
        """Give the largest whole number that ``size`` of a change may have, so that its norm is at most epsilon."""

    @abstractmethod
    def size(self, change: NDArray[np.integer]) -> int:
        """Measure a change, in whole levels: what ``limit`` bounds."""

    @abstractmethod
    def norm(self, size: int) -> float:
        """Turn a size into the norm of the change, for values in [0, 1]."""

    @abstractmethod
    def radius(self, epsilon: float) -> float:
        """Give the radius of the ball in levels."""

    @abstractmethod
    def noise(self, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Draw a change uniformly from the ball of radius 1: float32 of ``shape``, on the CPU."""

    @abstractmethod
    def steepest(self, gradient_NCHW: Tensor) -> Tensor:
        """Give the change of norm 1 along which a function with this gradient rises most; zero for no gradient."""

    @abstractmethod
    def project(self, change_NCHW: Tensor, radius_N: Tensor) -> Tensor:
        """Bring changes back into their balls."""

    @abstractmethod
    def extents(self, change_NCHW: Tensor, limit_N: Tensor) -> Tensor:
        """Give the size up to which a change may be rounded: float64 (N,), no more than its limit."""

    @abstractmethod
    def rounded(self, origin_CHW: Tensor, change_NCHW: Tensor, extent_N: Tensor) -> Tensor:
        """Turn changed pictures into pictures of whole levels in [0, 255].

        Args:
            origin_CHW: Whole levels, float32.
            change_NCHW: Within [0, 255] once added.
            extent_N: float64, the largest ``size`` that the rounded change may have.

        Returns:
            Whole levels, float32.
        """


class LinfBall(Ball):
    """All values may change, each by a few levels; the limit counts levels."""

    def limit(self, epsilon: float) -> int:
        return _largest(lambda levels: self.norm(levels) <= epsilon, int(min(epsilon, MAX_EPSILON) * LEVELS))

    def size(self, change: NDArray[np.integer]) -> int:
        return int(np.abs(change.astype(np.int64)).max(initial=0))

    def norm(self, size: int) -> float:
        return size / LEVELS

    def radius(self, epsilon: float) -> float:
        return float(self.limit(epsilon))

    def noise(self, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=random) * 2 - 1

    def steepest(self, gradient_NCHW: Tensor) -> Tensor:
        return gradient_NCHW.sign()

    def project(self, change_NCHW: Tensor, radius_N: Tensor) -> Tensor:
        radius_N111 = _per_image(radius_N)
        return change_NCHW.clamp(-radius_N111, radius_N111)

    def extents(self, change_NCHW: Tensor, limit_N: Tensor) -> Tensor:
        return limit_N

    def rounded(self, origin_CHW: Tensor, change_NCHW: Tensor, extent_N: Tensor) -> Tensor:
        extent_N111 = _per_image(extent_N).to(change_NCHW.dtype)
        return (origin_CHW + change_NCHW.round().clamp(-extent_N111, extent_N111)).clamp(0, LEVELS)


class L2Ball(Ball):
    """The sum of squared changes is bounded; the limit counts squared levels."""

    def limit(self, epsilon: float) -> int:
        return _largest(lambda squares: self.norm(squares) <= epsilon, int((min(epsilon, MAX_EPSILON) * LEVELS) ** 2))

    def size(self, change: NDArray[np.integer]) -> int:
        return int(np.square(change.astype(np.int64)).sum())

    def norm(self, size: int) -> float:
        return math.sqrt(size) / LEVELS

    def radius(self, epsilon: float) -> float:
        return min(epsilon, MAX_EPSILON) * LEVELS

    def noise(self, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        direction = torch.randn(shape, generator=random)
        length = torch.rand((), generator=random) ** (1 / max(1, direction.numel()))
        drawn: Tensor = direction * (length / direction.norm().clamp_min(1e-12))
        return drawn

    def steepest(self, gradient_NCHW: Tensor) -> Tensor:
        # Gradients of a sure network may be so small that their squares vanish.
        largest_N111 = gradient_NCHW.abs().amax(dim=(1, 2, 3), keepdim=True)
        scaled_NCHW = gradient_NCHW / torch.where(largest_N111 > 0, largest_N111, 1)
        return scaled_NCHW / _per_image(_lengths(scaled_NCHW)).clamp_min(1e-12)

    def project(self, change_NCHW: Tensor, radius_N: Tensor) -> Tensor:
        shrink_N = (radius_N / _lengths(change_NCHW).clamp_min(1e-12)).clamp(max=1)
        return change_NCHW * _per_image(shrink_N)

    def extents(self, change_NCHW: Tensor, limit_N: Tensor) -> Tensor:
        return torch.minimum(_squares(change_NCHW) * (1 + SLACK), limit_N)

    def rounded(self, origin_CHW: Tensor, change_NCHW: Tensor, extent_N: Tensor) -> Tensor:
        # Rounding each value by itself would erase a small change that is spread over a large picture. So the change
        # is rounded at the largest scale at which it is no longer than it may be.
        largest_N = change_NCHW.abs().amax(dim=(1, 2, 3)).double().clamp_min(1e-12)
        low_N, high_N = torch.zeros_like(extent_N), (extent_N.sqrt() + 1) / largest_N
        for _ in range(BISECTIONS):
            middle_N = (low_N + high_N) / 2
            fits_N = _squares(_scaled(origin_CHW, change_NCHW, middle_N) - origin_CHW) <= extent_N
            low_N, high_N = torch.where(fits_N, middle_N, low_N), torch.where(fits_N, high_N, middle_N)
        return _scaled(origin_CHW, change_NCHW, low_N)


NORMS: dict[Norm, Ball] = {"linf": LinfBall(), "l2": L2Ball()}
"""Name → geometry."""


def _largest(fits: Callable[[int], bool], guess: int) -> int:
    """Give the largest whole number that fits, near a guess which floating point may have put off by one."""
    return max(number for number in (0, guess - 1, guess, guess + 1) if number >= 0 and fits(number))


def _scaled(origin_CHW: Tensor, change_NCHW: Tensor, scale_N: Tensor) -> Tensor:
    return (origin_CHW + (change_NCHW * _per_image(scale_N).to(change_NCHW.dtype)).round()).clamp(0, LEVELS)


def _squares(change_NCHW: Tensor) -> Tensor:
    # Whole numbers add up without error in double precision.
    return change_NCHW.double().square().sum(dim=(1, 2, 3))


def _lengths(change_NCHW: Tensor) -> Tensor:
    lengths_N: Tensor = change_NCHW.flatten(1).norm(dim=1)
    return lengths_N


def _per_image(values_N: Tensor) -> Tensor:
    return values_N.view(-1, 1, 1, 1)
