"""Synthetic pages: handwritten digits scattered over textured backgrounds, with their boxes.

The digits are scikit-learn's, enlarged from 8x8 pixels; colour, contrast, turn, slant and blur vary. Every page comes
from a seed of its own, so any part of a set can be drawn alone and looks the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.recipes import backgrounds, digits

SIZE_PX = 320
"""Side of a page."""
NUM_DIGITS = (3, 12)
"""Fewest and most digits on a page."""
DIGIT_PX = (24, 80)
"""Shortest and longest longer side of a digit's box."""
MAX_TURN_DEG = 15.0
"""Digits are turned by up to this either way."""
MAX_SLANT = 0.15
"""And slanted."""
MAX_OVERLAP = 0.05
"""Part of the smaller of two boxes that may be covered by the other."""
MIN_CONTRAST = 60.0
"""Least difference in brightness, of 255, between the ink and the mean of what is below it."""
INK = 0.3
"""A pixel belongs to a digit where at least this part of it is ink; boxes are tight around those."""
NUM_HELD_OUT = 400
"""Pages on which the bundled detectors are measured."""
NUM_VALIDATION = 200
"""Pages to watch a training by."""
NUM_EXAMPLES = 8
"""Pages that a demonstration shows."""

NUM_PARITY = 4
"""Pages on which faster arithmetic is compared with float32."""
MAX_NOISE = 6.0
"""Largest standard deviation of a page's noise, in grey levels."""

_TRIES = 40
_MARGIN = 3
_EDGE = 0.5
_LUMA = np.array([0.299, 0.587, 0.114])

Box = tuple[int, int, int, int]
Boxes = NDArray[np.float32]
Ink = NDArray[np.float32]


@dataclass(frozen=True)
class Page:
    """One page and the truth about it."""

    pixels: NDArray[np.uint8]
    """RGB, uint8 of shape (320, 320, 3)."""
    boxes_xyxy: Boxes
    """float32 of shape (B, 4) in pixels: left, top, right, bottom edge of each digit's ink."""
    labels: NDArray[np.int64]
    """int64 of shape (B,): the digits, 0 to 9."""


@dataclass(frozen=True)
class Source:
    """What pages are drawn from."""

    digits: NDArray[np.int64]
    """Which of ``models.recipes.digits`` may appear, int64."""
    backgrounds: tuple[str, ...]
    """Which backgrounds; each is as likely as the others."""
    seed: int
    """Keeps the pages of one source apart from those of others."""

    def page(self, number: int) -> Page:
        """Draw the page of a number; the same number gives the same page."""
        return _draw(self, np.random.default_rng((self.seed, number)))

    def pages(self, first: int, num: int) -> Iterator[Page]:
        """Draw pages in order."""
        return (self.page(number) for number in range(first, first + num))


@cache
def training() -> Source:
    """Give the source to learn from."""
    kinds = backgrounds.TRAINING_PHOTOGRAPHS + backgrounds.TRAINING_PATTERNS
    return Source(digits.training_split(), kinds, seed=1)


@cache
def validation() -> Source:
    """Give the source to watch and to choose by: digits and backgrounds of training, other pages."""
    return Source(training().digits, training().backgrounds, seed=2)


@cache
def held_out() -> Source:
    """Give the source to measure on: neither its digits nor its backgrounds are ever trained on."""
    kinds = backgrounds.HELD_OUT_PHOTOGRAPHS + backgrounds.HELD_OUT_PATTERNS
    return Source(digits.test_split(), kinds, seed=3)


def validation_pages() -> list[Page]:
    """Draw the pages by which a training is watched."""
    return list(validation().pages(0, NUM_VALIDATION))


def held_out_pages() -> list[Page]:
    """Draw the pages on which the bundled detectors are measured."""
    return list(held_out().pages(0, NUM_HELD_OUT))


def examples(num: int = NUM_EXAMPLES) -> list[Page]:
    """Draw pages to show to people: held-out digits on held-out backgrounds, beside those that are measured."""
    return list(held_out().pages(NUM_HELD_OUT, num))


def parity() -> list[Page]:
    """Draw pages for parity checks: of patterns alone, so that no photograph is copied into a model's folder."""
    return list(Source(digits.test_split(), backgrounds.HELD_OUT_PATTERNS, seed=4).pages(0, NUM_PARITY))


def _draw(source: Source, random: np.random.Generator) -> Page:
    kind = source.backgrounds[random.integers(len(source.backgrounds))]
    pixels = backgrounds.draw(kind, SIZE_PX, random)
    wanted = int(random.integers(NUM_DIGITS[0], NUM_DIGITS[1] + 1))
    boxes: list[Box] = []
    labels: list[int] = []
    for _ in range(wanted * _TRIES):
        if len(boxes) == wanted:
            break
        index = int(source.digits[random.integers(len(source.digits))])
        ink = _ink(index, random)
        box = _free_place(ink, boxes, random)
        if box is not None:
            _write(pixels, ink, box, random)
            boxes.append(box)
            labels.append(int(digits.targets()[index]))
    return Page(_noisy(pixels, random), np.array(boxes, np.float32), np.array(labels, np.int64))


def _ink(index: int, random: np.random.Generator) -> Ink:
    """Enlarge, turn and slant one digit: float32 in [0, 1], cut to its box and a margin around it."""
    goal_px = int(random.integers(DIGIT_PX[0] + 1, DIGIT_PX[1]))
    turn, slant = np.deg2rad(random.uniform(-MAX_TURN_DEG, MAX_TURN_DEG)), random.uniform(-MAX_SLANT, MAX_SLANT)
    sharpness, blur_px = random.uniform(1.5, 4), goal_px * random.uniform(0.005, 0.025)
    shape = np.array([[np.cos(turn), slant - np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    scale = goal_px / 8
    for _ in range(3):
        ink = _enlarged(index, shape * scale, 16 + 3 * goal_px // 2, sharpness, blur_px)
        left, top, right, bottom = _extent(ink)
        longer = max(right - left, bottom - top)
        if abs(longer - goal_px) <= 1:
            break
        scale *= goal_px / longer
    return ink[top - _MARGIN : bottom + _MARGIN, left - _MARGIN : right + _MARGIN]


def _enlarged(index: int, shape_22: NDArray[np.float64], side_px: int, sharpness: float, blur_px: float) -> Ink:
    middle = side_px / 2 - shape_22 @ np.array([[3.5], [3.5]])
    small = digits.pixels()[index].astype(np.float32) / 255
    large = cv2.warpAffine(small, np.hstack([shape_22, middle]), (side_px, side_px), flags=cv2.INTER_CUBIC)
    stroke = np.clip((large - _EDGE) * sharpness + _EDGE, 0, 1)
    ink: Ink = cv2.GaussianBlur(stroke, (0, 0), blur_px).astype(np.float32, copy=False)
    return ink


def _extent(ink: Ink) -> Box:
    rows, columns = np.flatnonzero((ink >= INK).any(axis=1)), np.flatnonzero((ink >= INK).any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _free_place(ink: Ink, boxes: list[Box], random: np.random.Generator) -> Box | None:
    """Try one place for a digit's box; ``None`` where it would cover others."""
    height, width = (side - 2 * _MARGIN for side in ink.shape)
    left = int(random.integers(_MARGIN, SIZE_PX - _MARGIN - width + 1))
    top = int(random.integers(_MARGIN, SIZE_PX - _MARGIN - height + 1))
    box = (left, top, left + width, top + height)
    return None if any(_overlap(box, other) > MAX_OVERLAP for other in boxes) else box


def _overlap(one: Box, other: Box) -> float:
    """Give the part of the smaller box that lies in the other."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0) * max(height, 0) / smaller


def _write(pixels: NDArray[np.uint8], ink: Ink, box: Box, random: np.random.Generator) -> None:
    """Lay ink over a page, in a colour that stands out from what is below."""
    left, top, right, bottom = box
    below = pixels[top - _MARGIN : bottom + _MARGIN, left - _MARGIN : right + _MARGIN]
    brightness = float(below.mean(axis=(0, 1)) @ _LUMA)
    colour = random.uniform(0, 255, size=3)
    while abs(colour @ _LUMA - brightness) < MIN_CONTRAST:
        colour = random.uniform(0, 255, size=3)
    opacity = (random.uniform(0.8, 1.0) * ink)[..., None]
    below[:] = below + opacity * (colour.astype(np.float32) - below)


def _noisy(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    bank = _noise_bank()
    first = random.integers(len(bank) - pixels.size)
    noise = bank[first : first + pixels.size].reshape(pixels.shape)
    return np.clip(pixels + np.float32(random.uniform(0, MAX_NOISE)) * noise, 0, 255).astype(np.uint8)


@cache
def _noise_bank() -> NDArray[np.float32]:
    """Normal noise to cut pieces from, which is faster than drawing it anew."""
    return np.random.default_rng(0).standard_normal(1 << 22, dtype=np.float32)
