"""Cluttered canvases with one handwritten digit somewhere on each, drawn in batches from a seed.

Shape suffixes: N canvases, F pieces of clutter on each, M = N * F, S digits to draw from, P points or pixels, H height,
W width; 22 a linear map, 23 an affine one.
Coordinates are (x, y) in [-1, 1] from edge to edge of the canvas, as ``torch.nn.functional.affine_grid`` has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.recipes import digits

DIGIT_PX = 32
"""Side of an upright digit at scale 1, enlarged from 8 px."""
CANVAS_PX = 64
"""Side of a canvas: twice the digit's."""
MAX_TURN = math.radians(45)
"""Digits are turned by up to this either way."""
SCALES = (0.7, 1.2)
"""Smallest and largest scale."""
NUM_FRAGMENTS, FRAGMENT_PX = 8, 12
"""Pieces of digits on a canvas, at most, and their side."""
NUM_STROKES = 2
"""Curved strokes on a canvas, at most."""
PRESENCE = 0.75
"""How probable each piece and each stroke is."""
NOISE = (0.02, 0.1)
"""Least and largest standard deviation of a canvas' grain."""
HELD_OUT_SEED, NUM_HELD_OUT = 2_015_000, 3600
"""Seed and number of the canvases that measure: about ten of each held-out digit."""
EXAMPLES_SEED = 2_015_001
"""Seed of the canvases that are shown."""

_STROKE_POINTS = 40
_INK_LEVEL = 64


class Canvases(NamedTuple):
    """A batch of canvases and the truth about them."""

    pixels: Tensor
    """float32 of shape (N, 1, 64, 64): grey levels of 8 bits, scaled to [0, 1]; ink is bright."""
    targets: Tensor
    """int64 of shape (N,): the class of the digit."""
    theta: Tensor
    """float32 of shape (N, 2, 3): from the upright digit's square to the canvas."""

    def levels(self) -> NDArray[np.uint8]:
        """Give the canvases as files hold them: uint8 of shape (N, 64, 64)."""
        return (self.pixels[:, 0] * 255).round().to(torch.uint8).numpy()

    def quads_xy(self) -> NDArray[np.float64]:
        """Give the upright digit's corners, from its top left clockwise: float64 (N, 4, 2), in pixels."""
        corners_42 = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        placed_N42 = corners_42 @ self.theta[:, :, :2].transpose(1, 2) + self.theta[:, None, :, 2]
        return ((placed_N42 + 1) / 2 * CANVAS_PX).double().numpy()


class Ink:
    """Digits to draw canvases of, whole and in pieces.

    Args:
        pixels: uint8 of shape (S, 8, 8), ink bright.
        targets: int64 of shape (S,): their classes.
    """

    def __init__(self, pixels: NDArray[np.uint8], targets: NDArray[np.int64]) -> None:
        levels_S188 = torch.from_numpy(pixels)[:, None]
        self.targets = torch.from_numpy(targets)
        self.is_ink_SP = levels_S188.flatten(1) > _INK_LEVEL
        enlarged_S1HW = functional.interpolate(levels_S188 / 255, size=DIGIT_PX, mode="bicubic", align_corners=False)
        self.enlarged_S1HW = enlarged_S1HW.clamp_(0, 1)

    @classmethod
    def of(cls, indices: NDArray[np.int64]) -> Ink:
        """Take some of the digits of ``models.recipes.digits``."""
        return cls(digits.pixels()[indices], digits.targets()[indices])

    def choose(self, num: int, random: torch.Generator) -> Tensor:
        """Choose digits by chance: int64 of shape (num,)."""
        return torch.randint(len(self.targets), (num,), generator=random)


def held_out() -> Canvases:
    """Draw the canvases that measure: of held-out digits alone, clutter included."""
    random = torch.Generator().manual_seed(HELD_OUT_SEED)
    return draw(Ink.of(digits.test_split()), NUM_HELD_OUT, random)


def examples(num: int) -> Canvases:
    """Draw canvases to show: of held-out digits, and none of those that measure."""
    return draw(Ink.of(digits.test_split()), num, torch.Generator().manual_seed(EXAMPLES_SEED))


def draw(
    ink: Ink, num: int, random: torch.Generator, *, distortion: float = 1.0, chosen: Sequence[int] | None = None
) -> Canvases:
    """Draw canvases.

    Args:
        ink: The digits that may appear, whole or in pieces.
        num: N, how many canvases.
        random: Where chance comes from.
        distortion: In [0, 1]. At 0 digits are upright and fill the canvas; towards 1 they turn, shrink and wander off.
        chosen: The digit of each canvas, an index into ``ink``; by chance if not given.
    """
    chosen_N = ink.choose(num, random) if chosen is None else torch.tensor(chosen)
    theta_N23 = _poses(ink.is_ink_SP[chosen_N], random, distortion)
    digit_N1HW = _placed(ink.enlarged_S1HW[chosen_N], theta_N23) * _uniform(random, (num, 1, 1, 1), 0.75, 1.0)
    clutter_NP = torch.zeros(num, CANVAS_PX * CANVAS_PX)
    _add_fragments(clutter_NP, ink, theta_N23[:, :, 2], random)
    _add_strokes(clutter_NP, random)
    drawn_N1HW = torch.maximum(clutter_NP.view_as(digit_N1HW), digit_N1HW)
    grain_N1HW = torch.randn(drawn_N1HW.shape, generator=random) * _uniform(random, (num, 1, 1, 1), *NOISE)
    levels_N1HW = (drawn_N1HW + grain_N1HW).clamp_(0, 1).mul_(255).round_()
    return Canvases(levels_N1HW / 255, ink.targets[chosen_N], theta_N23)


def _poses(is_ink_NP: Tensor, random: torch.Generator, distortion: float) -> Tensor:
    """Turn and scale by chance, and shift to anywhere on the canvas where no ink is cut off."""
    num = len(is_ink_NP)
    turn_N = _uniform(random, (num,), -MAX_TURN, MAX_TURN) * distortion
    scale_N = _uniform(random, (num,), *SCALES) ** distortion * (CANVAS_PX / DIGIT_PX) ** (1 - distortion)
    linear_N22 = _linear(turn_N, scale_N * DIGIT_PX / CANVAS_PX)
    centres = (torch.arange(8) + 0.5) / 4 - 1
    points_P2 = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1).view(-1, 2)
    placed_NP2 = points_P2 @ linear_N22.transpose(1, 2)
    without = ~is_ink_NP[..., None]
    # Ink reaches half of one of the digit's pixels beyond its centre.
    room = 1 - DIGIT_PX / CANVAS_PX / 8
    low_N2 = -room - placed_NP2.masked_fill(without, math.inf).amin(dim=1)
    high_N2 = room - placed_NP2.masked_fill(without, -math.inf).amax(dim=1)
    shift_N2 = low_N2 + (high_N2 - low_N2).clamp(min=0) * torch.rand(num, 2, generator=random)
    return torch.cat([linear_N22, (shift_N2 * distortion)[..., None]], dim=2)


def _placed(digit_N1HW: Tensor, theta_N23: Tensor) -> Tensor:
    inverse_N22 = torch.linalg.inv(theta_N23[:, :, :2])
    back_N23 = torch.cat([inverse_N22, -inverse_N22 @ theta_N23[:, :, 2:]], dim=2)
    return _sampled(digit_N1HW, back_N23, CANVAS_PX)


def _add_fragments(clutter_NP: Tensor, ink: Ink, digit_N2: Tensor, random: torch.Generator) -> None:
    """Paste pieces of digits, turned and cut out of them by chance, each at the farthest from the digit of 3 places."""
    num, total = len(clutter_NP), len(clutter_NP) * NUM_FRAGMENTS
    turn_M, scale_M = _uniform(random, (total,), -math.pi, math.pi), _uniform(random, (total,), *SCALES)
    linear_M22 = _linear(turn_M, FRAGMENT_PX / DIGIT_PX / scale_M)
    theta_M23 = torch.cat([linear_M22, _uniform(random, (total, 2, 1), -0.6, 0.6)], dim=2)
    pieces_M1HW = _sampled(ink.enlarged_S1HW[ink.choose(total, random)], theta_M23, FRAGMENT_PX)
    places_NF32 = torch.randint(CANVAS_PX - FRAGMENT_PX + 1, (num, NUM_FRAGMENTS, 3, 2), generator=random)
    digit_N112 = ((digit_N2 + 1) * CANVAS_PX / 2 - FRAGMENT_PX / 2)[:, None, None]
    farthest_NF = (places_NF32 - digit_N112).square().sum(dim=-1).argmax(dim=2)
    corner_M12 = places_NF32.take_along_dim(farthest_NF[..., None, None], dim=2).view(total, 1, 2)
    side = torch.arange(FRAGMENT_PX)
    cells_MHW = (corner_M12[..., 1] + side)[:, :, None] * CANVAS_PX + (corner_M12[..., 0] + side)[:, None]
    _paint(clutter_NP, cells_MHW, pieces_M1HW[:, 0], random)


def _add_strokes(clutter_NP: Tensor, random: torch.Generator) -> None:
    """Draw quadratic Bezier curves, about three pixels thick."""
    total = len(clutter_NP) * NUM_STROKES
    start, middle, end = torch.rand(3, total, 1, 2, generator=random) * CANVAS_PX
    middle, end = start + 0.4 * (middle - start), start + 0.4 * (end - start)
    t = torch.linspace(0, 1, _STROKE_POINTS)[:, None]
    points_MP12 = ((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end)[:, :, None]
    near = torch.arange(-1, 2)
    near_92 = torch.stack(torch.meshgrid(near, near, indexing="xy"), dim=-1).view(-1, 2)
    pixels_MP92 = (points_MP12.floor() + near_92).clamp_(0, CANVAS_PX - 1)
    distance_MP9 = (pixels_MP92 + 0.5 - points_MP12).square().sum(dim=-1).sqrt()
    cells_MP9 = (pixels_MP92[..., 1] * CANVAS_PX + pixels_MP92[..., 0]).long()
    _paint(clutter_NP, cells_MP9, (1.6 - distance_MP9).clamp_(0, 1), random)


def _paint(clutter_NP: Tensor, cells_MXY: Tensor, ink_MXY: Tensor, random: torch.Generator) -> None:
    """Lay things of chance brightness onto the canvases, where they are not brighter already; some are left out."""
    is_there = torch.rand(len(ink_MXY), 1, 1, generator=random) < PRESENCE
    ink_MXY = ink_MXY * is_there * _uniform(random, (len(ink_MXY), 1, 1), 0.4, 1.0)
    num = len(clutter_NP)
    clutter_NP.scatter_reduce_(1, cells_MXY.view(num, -1), ink_MXY.view(num, -1), "amax")


def _sampled(x_N1HW: Tensor, theta_N23: Tensor, side_px: int) -> Tensor:
    grid = functional.affine_grid(theta_N23, [len(x_N1HW), 1, side_px, side_px], align_corners=False)
    return functional.grid_sample(x_N1HW, grid, align_corners=False)


def _linear(turn_N: Tensor, scale_N: Tensor) -> Tensor:
    cos, sin = scale_N * turn_N.cos(), scale_N * turn_N.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def _uniform(random: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=random)
