"""Patches from which the style encoder learns: which picture they were cut from, and what was done to them.

The second question is asked for the sake of what it teaches: features that tell a clean patch from one with speckle,
a chequered pattern or blur make a Gram loss that keeps painted pictures free of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from models.recipes.style_pictures import STYLES

PATCH_PX = 96
"""Side of a patch."""
DRAWN_PX, DRAWN_PER_STYLE = 448, 3
"""Side of the drawn pictures, and how many of each kind there are; a kind is one class."""
SEED = 500
"""Seed of the first drawn picture; demonstrations use others."""
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "clock",
    "coffee",
    "coins",
    "colorwheel",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "stereo_motorcycle",
    "text",
)
"""Photographs of ``skimage.data``; each quarter is a class."""
DAMAGES = ("none", "speckle", "colour_speckle", "chequered", "blur", "blocks")
"""What may have been done to a patch."""

Pixels = NDArray[np.uint8]
Random = np.random.Generator


@cache
def sources() -> tuple[tuple[Pixels, int], ...]:
    """Every picture that patches are cut from, RGB uint8 (H, W, 3), with its class."""
    found: list[tuple[Pixels, int]] = []
    number = 0
    for name in PHOTOGRAPHS:
        for quarter in _quarters(photograph(name)):
            found.append((quarter, number))
            number += 1
    for draw in STYLES.values():
        found += [(draw(DRAWN_PX, SEED + index), number) for index in range(DRAWN_PER_STYLE)]
        number += 1
    return tuple(found)


def num_classes() -> int:
    """How many classes the sources have."""
    return sources()[-1][1] + 1


def photograph(name: str) -> Pixels:
    """Read one of scikit-image's photographs as RGB, uint8 (H, W, 3)."""
    loaded = getattr(data, name)()
    pixels = loaded[0] if isinstance(loaded, tuple) else loaded
    if pixels.dtype != np.uint8:
        pixels = (255 * pixels.astype(float) / pixels.max()).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))


def batch(size: int, random: Random) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Cut a batch of patches.

    Returns:
        Patches, uint8 (N, 96, 96, 3); the class of each, int64 (N,); the index of its damage, int64 (N,).
    """
    everything = sources()
    chosen = [everything[int(index)] for index in random.integers(len(everything), size=size)]
    damages = np.where(random.random(size) < 0.4, 0, random.integers(len(DAMAGES), size=size))
    patches = [
        _DAMAGE[int(damage)](_toned(_cut(pixels, random), random), random)
        for (pixels, _), damage in zip(chosen, damages, strict=True)
    ]
    return np.stack(patches), np.array([number for _, number in chosen]), damages


def _quarters(pixels: Pixels) -> list[Pixels]:
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    return [pixels[top : top + height, left : left + width] for top in (0, height) for left in (0, width)]


def _cut(pixels: Pixels, random: Random) -> Pixels:
    """Cut a square of chance place, size and orientation, and resize it."""
    height, width = pixels.shape[:2]
    side = int(min(height, width, PATCH_PX * 2 ** random.uniform(-0.7, 1.2)))
    top, left = random.integers(height - side + 1), random.integers(width - side + 1)
    piece = np.rot90(pixels[top : top + side, left : left + side], int(random.integers(4)))
    if random.random() < 0.5:
        piece = piece[:, ::-1]
    shrinking = cv2.INTER_AREA if side > PATCH_PX else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(piece), (PATCH_PX, PATCH_PX), interpolation=shrinking).astype(np.uint8)


def _toned(pixels: Pixels, random: Random) -> Pixels:
    """Change contrast, brightness and colour a little, or exchange channels, so that shapes matter too."""
    gain = random.uniform(0.6, 1.3) * random.uniform(0.8, 1.2, size=3)
    shift = random.uniform(-30, 30) + random.uniform(-15, 15, size=3)
    levels = (pixels - 128.0) * gain + 128 + shift
    if random.random() < 0.4:
        levels = levels[..., random.permutation(3)]
    return np.clip(levels, 0, 255).astype(np.uint8)


def _noisy(pixels: Pixels, noise: NDArray[np.floating]) -> Pixels:
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _speckle(pixels: Pixels, random: Random) -> Pixels:
    return _noisy(pixels, random.normal(0, random.uniform(8, 40), (PATCH_PX, PATCH_PX, 1)))


def _colour_speckle(pixels: Pixels, random: Random) -> Pixels:
    return _noisy(pixels, random.normal(0, random.uniform(8, 40), (PATCH_PX, PATCH_PX, 3)))


def _chequered(pixels: Pixels, random: Random) -> Pixels:
    y, x = np.mgrid[0:PATCH_PX, 0:PATCH_PX]
    step = int(random.integers(1, 3))
    pattern = ((x // step + y // step) % 2 * 2 - 1)[..., None] * random.uniform(8, 35) * random.normal(0, 1, 3)
    return _noisy(pixels, pattern)


def _blur(pixels: Pixels, random: Random) -> Pixels:
    return cv2.GaussianBlur(pixels, (0, 0), random.uniform(1.2, 3)).astype(np.uint8)


def _blocks(pixels: Pixels, random: Random) -> Pixels:
    quality = int(random.integers(4, 22))
    _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded.astype(np.uint8)


_DAMAGE: tuple[Callable[[Pixels, Random], Pixels], ...] = (
    lambda pixels, _: pixels,
    _speckle,
    _colour_speckle,
    _chequered,
    _blur,
    _blocks,
)
