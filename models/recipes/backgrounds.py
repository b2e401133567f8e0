"""Textured backgrounds for synthetic pages: pieces of scikit-image's photographs, and patterns drawn from a seed.

The photographs and the kinds of pattern on which nothing is ever trained are listed apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

TRAINING_PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "coffee",
    "coins",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "rocket",
    "stereo_motorcycle",
)
"""Photographs of ``skimage.data`` behind training pages."""
HELD_OUT_PHOTOGRAPHS = ("cell", "chelsea", "grass", "moon", "retina")
"""Photographs behind held-out pages alone."""
TRAINING_PATTERNS = ("clouds", "stripes", "squares", "grain")
"""Kinds of pattern behind training pages."""
HELD_OUT_PATTERNS = ("marble", "mosaic")
"""Kinds of pattern behind held-out pages alone."""

SMALLEST_CROP = 0.35
"""Side of the smallest piece of a photograph, as a part of its shorter side."""

Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]
Random = np.random.Generator


def draw(kind: str, size_px: int, random: Random) -> Pixels:
    """Draw one background.

    Args:
        kind: A photograph or pattern of the lists above.
        size_px: Side of the square.
        random: Where chance comes from.

    Returns:
        RGB, uint8 of shape (size_px, size_px, 3).
    """
    pattern = _PATTERNS.get(kind)
    drawn = _piece(kind, size_px, random) if pattern is None else _coloured(pattern(size_px, random), random)
    return _toned(drawn, random)


@cache
def _photograph(name: str) -> Pixels:
    loaded = getattr(data, name)()
    pixels = loaded[0] if isinstance(loaded, tuple) else loaded
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def _piece(name: str, size_px: int, random: Random) -> Pixels:
    """Cut a square out of a photograph, mirror and turn it by chance, resize it."""
    whole = _photograph(name)
    height, width = whole.shape[:2]
    side = int(min(height, width) * random.uniform(SMALLEST_CROP, 1))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    piece = np.rot90(whole[top : top + side, left : left + side], int(random.integers(4)))
    if random.random() < 0.5:
        piece = piece[:, ::-1]
    shrinking = cv2.INTER_AREA if side > size_px else cv2.INTER_LINEAR
    resized = cv2.resize(np.ascontiguousarray(piece), (size_px, size_px), interpolation=shrinking)
    return resized.astype(np.uint8, copy=False)


def _toned(pixels: Pixels, random: Random) -> Pixels:
    """Weaken the contrast and shift the colours by chance."""
    contrast = random.uniform(0.35, 1.0)
    gain = contrast * random.uniform(0.85, 1.15, size=3)
    middle = random.uniform(60, 195) * (1 - contrast)
    table = np.arange(256)[:, None] * gain + middle
    return cv2.LUT(pixels, np.clip(table, 0, 255).astype(np.uint8).reshape(256, 1, 3)).astype(np.uint8, copy=False)


def _coloured(field: Field, random: Random) -> Pixels:
    """Give a field in [0, 1] two colours, one for each end."""
    ends = random.uniform(0, 255, size=(2, 3))
    steps = np.linspace(0, 1, 256)[:, None]
    table = (ends[0] * (1 - steps) + ends[1] * steps).astype(np.uint8).reshape(256, 1, 3)
    levels = np.clip(field * 255, 0, 255).astype(np.uint8)
    return cv2.LUT(cv2.merge([levels] * 3), table).astype(np.uint8, copy=False)


def _noise(size_px: int, cells: int, random: Random) -> Field:
    """Smooth noise in [0, 1] with so many cells on a side."""
    coarse = random.random((cells, cells), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC), 0, 1).astype(np.float32)


def _clouds(size_px: int, random: Random) -> Field:
    cells = [int(random.integers(2, 5)) * 2**octave for octave in range(5)]
    weights = 0.6 ** np.arange(5)
    return sum(
        (w * _noise(size_px, c, random) for w, c in zip(weights / weights.sum(), cells, strict=True)),
        start=np.zeros((size_px, size_px), np.float32),
    ).astype(np.float32)


def _stripes(size_px: int, random: Random) -> Field:
    """Soft stripes of one direction, bent a little."""
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    angle, period = random.uniform(0, np.pi), random.uniform(8, 60)
    bent = random.uniform(0, 12) * _noise(size_px, 4, random)
    waves = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle) + bent) / period)
    stripes: Field = (0.5 + 0.5 * np.clip(waves * random.uniform(0.6, 3), -1, 1)).astype(np.float32)
    return stripes


def _squares(size_px: int, random: Random) -> Field:
    """Squared paper: thin lines both ways over a mild shade."""
    field = 0.2 * _noise(size_px, 3, random)
    step, thickness = int(random.integers(12, 40)), int(random.integers(1, 3))
    first = random.integers(step, size=2)
    for offset in range(thickness):
        field[first[0] + offset :: step] = 1
        field[:, first[1] + offset :: step] = 1
    return cv2.GaussianBlur(field, (3, 3), random.uniform(0.3, 1)).astype(np.float32)


def _grain(size_px: int, random: Random) -> Field:
    """Fine grain on a slope of light."""
    grain = cv2.GaussianBlur(random.random((size_px, size_px), dtype=np.float32), (0, 0), random.uniform(0.5, 2))
    slope = _noise(size_px, 2, random)
    return np.clip(0.5 + random.uniform(1, 3) * (grain - 0.5) + 0.8 * (slope - 0.5), 0, 1).astype(np.float32)


def _marble(size_px: int, random: Random) -> Field:
    """Veins: waves through clouds."""
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    across, down = random.uniform(-0.08, 0.08, size=2)
    phase = across * x + down * y + random.uniform(6, 14) * _clouds(size_px, random)
    veins: Field = (0.5 + 0.5 * np.sin(phase)).astype(np.float32)
    return veins


def _mosaic(size_px: int, random: Random) -> Field:
    """Flat tiles around scattered seeds, each of its own shade."""
    num = int(random.integers(15, 60))
    field = np.full((size_px, size_px), 255, np.uint8)
    seeds = random.integers(size_px, size=(num, 2))
    field[seeds[:, 1], seeds[:, 0]] = 0
    _, nearest = cv2.distanceTransformWithLabels(field, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shades = random.random(nearest.max() + 1, dtype=np.float32)
    tiles: Field = shades[nearest]
    return tiles


_PATTERNS: dict[str, Callable[[int, Random], Field]] = {
    "clouds": _clouds,
    "stripes": _stripes,
    "squares": _squares,
    "grain": _grain,
    "marble": _marble,
    "mosaic": _mosaic,
}
