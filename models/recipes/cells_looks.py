"""How synthetic cells look: textures, shading, light, blur and noise.

Shape suffixes: H height, W width. A texture is float32 of shape (H, W) with mean 0 and deviation about 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Texture = NDArray[Any]
Shape = tuple[int, int]


def rendered(
    random: np.random.Generator, cells_HW: NDArray[np.uint16], *, radius_px: float, held_out: bool
) -> NDArray[np.uint8]:
    """Draw cells as a camera would see them.

    Args:
        random: Decides on everything that is not given.
        cells_HW: The number of the cell at each pixel, 0 is background.
        radius_px: Typical radius of a cell.
        held_out: Whether to take the textures that training never sees.

    Returns:
        Grey levels, shape (H, W).
    """
    textures = HELD_OUT_TEXTURES if held_out else TRAINING_TEXTURES
    ground = random.choice(np.array(textures, dtype=object))(random, cells_HW.shape)
    fill = random.choice(np.array(textures, dtype=object))(random, cells_HW.shape)
    depth = depth_px(cells_HW)
    mask = (cells_HW > 0).astype(np.float32)
    contrast = random.uniform(0.18, 0.6)
    # Training is harder than what is measured, so that background is not taken for cells.
    image = contrast * random.uniform(0.0, 0.15 if held_out else 0.25) * ground
    image += _cast_shadow(random, mask, radius_px) * contrast
    image = np.where(mask > 0, contrast * _bodies(random, cells_HW, depth, fill, radius_px), image)
    image += contrast * _relief(random, depth, mask, fill, radius_px)
    image *= random.choice([-1.0, 1.0])
    return _photographed(random, image.astype(np.float32))


def depth_px(cells_HW: NDArray[np.uint16]) -> Texture:
    """Measure how far each pixel lies inside its cell: 0 outside, 1 on its outermost pixels; shape (H, W)."""
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    alone = cv2.erode(cells_HW, kernel) == cv2.dilate(cells_HW, kernel)
    inner = (alone & (cells_HW > 0)).astype(np.uint8)
    within: Texture = cv2.distanceTransform(inner, cv2.DIST_L2, 5)
    if bool(inner.all()):
        within = np.full(cells_HW.shape, np.float32(max(cells_HW.shape)))
    return np.where(cells_HW > 0, within + 1, 0).astype(np.float32)


def _bodies(
    random: np.random.Generator, cells_HW: NDArray[np.uint16], depth: Texture, fill: Texture, radius_px: float
) -> Texture:
    """Brightness inside the cells, about 1: each cell's own, rounded towards its rim, darker where cells touch."""
    own = 1 + random.uniform(0.03, 0.3) * random.uniform(-1, 1, size=int(cells_HW.max()) + 1).astype(np.float32)
    rounding = random.choice([0.0, random.uniform(0.0, 0.5)])
    dome = np.sqrt(np.clip(depth / (random.uniform(0.4, 1.0) * radius_px), 0, 1))
    body = own[cells_HW] * (1 - rounding + rounding * dome)
    rim_px = random.uniform(1.5, 0.25 * radius_px + 1.5)
    body += random.choice([0.0, random.uniform(-0.4, 0.6)]) * np.exp(-((depth / rim_px) ** 2))
    nucleus = np.clip((depth / radius_px - random.uniform(0.4, 0.6)) * 8, 0, 1)
    body += random.choice([0.0, random.uniform(-0.45, 0.45)], p=[0.6, 0.4]) * nucleus
    body += random.choice([0.0, random.uniform(0.0, 0.25)], p=[0.3, 0.7]) * fill
    bodies: Texture = (body - random.uniform(0.4, 0.9) * _contacts(cells_HW)).astype(np.float32)
    return bodies


def _contacts(cells_HW: NDArray[np.uint16]) -> Texture:
    """Mark pixels that touch another cell: 1 there, 0 elsewhere."""
    kernel = np.ones((3, 3), np.uint8)
    # Background must not win the comparison of the smallest neighbour.
    lowest = cv2.erode(np.where(cells_HW == 0, np.uint16(65535), cells_HW), kernel)
    touching = (cells_HW > 0) & (lowest < cv2.dilate(cells_HW, kernel))
    return touching.astype(np.float32)


def _relief(random: np.random.Generator, depth: Texture, mask: Texture, fill: Texture, radius_px: float) -> Texture:
    """Light from one side on raised cells with raised patterns, as on pressed metal; often none."""
    if random.random() < 0.55:
        return np.zeros_like(depth)
    height: Texture = np.clip(depth / random.uniform(2, 6), 0, 1) * random.uniform(1, 3)
    height += mask * random.uniform(0.0, 0.5) * fill
    height += (
        mask * random.uniform(0.0, 1.2) * _clouds(random, depth.shape, grain_px=radius_px * random.uniform(0.1, 0.5))
    )
    height = cv2.GaussianBlur(height.astype(np.float32), (0, 0), random.uniform(0.8, 2.0))
    angle = random.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * cv2.Sobel(height, cv2.CV_32F, 1, 0) + np.sin(angle) * cv2.Sobel(height, cv2.CV_32F, 0, 1)
    strength = random.uniform(0.1, 0.55) / max(float(slope[mask > 0].std()) if mask.any() else 1.0, 1e-3)
    relief: Texture = np.clip(strength * slope, -1.2, 1.2).astype(np.float32)
    return relief


def _cast_shadow(random: np.random.Generator, mask: Texture, radius_px: float) -> Texture:
    """A soft halo or shadow beside the cells; often none."""
    if random.random() < 0.5:
        return np.zeros_like(mask)
    shift = random.uniform(-0.25, 0.25, size=2) * radius_px
    moved = cv2.warpAffine(mask, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), mask.shape[::-1])
    return cv2.GaussianBlur(moved, (0, 0), random.uniform(0.1, 0.4) * radius_px + 0.5) * random.uniform(-0.35, 0.3)


def _photographed(random: np.random.Generator, image: Texture) -> NDArray[np.uint8]:
    """Uneven light, blur, noise, brightness and gamma."""
    height, width = image.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    a, b, c, d = random.normal(0, random.choice([0.02, 0.12]), size=4)
    image = image * (1 + a * x + b * y) + (b * x - a * y + c * x * y + d * (x**2 + y**2))
    image = cv2.GaussianBlur(image, (0, 0), random.uniform(0.4, 1.5))
    noise = random.normal(0, 1, size=image.shape).astype(np.float32)
    image = image + random.uniform(0.003, 0.05) * cv2.GaussianBlur(noise, (0, 0), random.choice([0.3, 0.7]))
    low, high = np.percentile(image, [0.5, 99.5])
    span = random.uniform(0.35, 0.95)
    level = np.clip((image - low) / max(high - low, 1e-6), 0, 1) ** np.exp(random.uniform(-0.4, 0.4))
    levels: NDArray[np.uint8] = (255 * np.clip(random.uniform(0, 1 - span) + span * level, 0, 1)).astype(np.uint8)
    return levels


def _flat(random: np.random.Generator, shape: Shape) -> Texture:
    return np.zeros(shape, dtype=np.float32)


def _clouds(random: np.random.Generator, shape: Shape, *, grain_px: float | None = None) -> Texture:
    grain = grain_px or float(np.exp(random.uniform(np.log(4), np.log(60))))
    total = np.zeros(shape, dtype=np.float32)
    for octave in range(3):
        coarse = [max(2, round(side * 2**octave / grain)) for side in shape]
        values = random.normal(0, 0.6**octave, size=coarse).astype(np.float32)
        total += cv2.resize(values, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return _standard(total)


def _grain(random: np.random.Generator, shape: Shape) -> Texture:
    noise = random.normal(0, 1, size=shape).astype(np.float32)
    return _standard(cv2.GaussianBlur(noise, (0, 0), random.uniform(0.8, 3.0)))


def _stripes(random: np.random.Generator, shape: Shape) -> Texture:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, period_px = random.uniform(0, np.pi), random.uniform(5, 40)
    bent = random.uniform(0, 6) * _clouds(random, shape, grain_px=80.0)
    waves: Texture = np.sqrt(2) * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle) + bent) / period_px)
    return waves


def _specks(random: np.random.Generator, shape: Shape) -> Texture:
    canvas = np.zeros(shape, dtype=np.float32)
    for _ in range(int(random.integers(20, 200))):
        at = (int(random.integers(shape[1])), int(random.integers(shape[0])))
        cv2.circle(canvas, at, int(random.integers(1, 4)), float(random.uniform(-1, 1)), thickness=-1)
    return _standard(canvas)


def _fibres(random: np.random.Generator, shape: Shape) -> Texture:
    canvas = np.zeros(shape, dtype=np.float32)
    for _ in range(int(random.integers(5, 40))):
        steps = random.normal(0, 0.25, size=60).cumsum() + random.uniform(0, 2 * np.pi)
        path = np.stack([np.cos(steps), np.sin(steps)], axis=1).cumsum(axis=0) * random.uniform(1, 5)
        path += random.uniform((0, 0), shape[::-1])
        cv2.polylines(canvas, [path.astype(np.int32)], False, float(random.uniform(-1, 1)), int(random.integers(1, 3)))
    return _standard(canvas)


def _scratches(random: np.random.Generator, shape: Shape) -> Texture:
    canvas = np.zeros(shape, dtype=np.float32)
    for _ in range(int(random.integers(5, 50))):
        ends = random.uniform((0, 0), shape[::-1], size=(2, 2))
        ends[1] = ends[0] + (ends[1] - ends[0]) * random.uniform(0.05, 0.8)
        (x1, y1), (x2, y2) = ends.astype(int).tolist()
        cv2.line(canvas, (x1, y1), (x2, y2), float(random.uniform(-1, 1)), int(random.integers(1, 5)))
    return _standard(canvas)


def _patches(random: np.random.Generator, shape: Shape) -> Texture:
    steps = int(random.integers(2, 6))
    return _standard(np.round(_clouds(random, shape, grain_px=random.uniform(10, 60)) * steps / 3))


def _rings(random: np.random.Generator, shape: Shape) -> Texture:
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    away = np.hypot(x - random.uniform(0, shape[1]), y - random.uniform(0, shape[0]))
    rings: Texture = np.sqrt(2) * np.sin(2 * np.pi * away / random.uniform(8, 50)).astype(np.float32)
    return rings


def _hatching(random: np.random.Generator, shape: Shape) -> Texture:
    return _standard(_stripes(random, shape) * _stripes(random, shape))


def _photograph(name: str) -> Callable[[np.random.Generator, Shape], Texture]:
    def texture(random: np.random.Generator, shape: Shape) -> Texture:
        scale, angle = random.uniform(0.4, 2.0), random.uniform(0, 360)
        turn: Texture = cv2.getRotationMatrix2D((256, 256), angle, scale)
        turn[:, 2] += random.uniform(-100, 100, size=2)
        return _standard(cv2.warpAffine(_pixels(name), turn, shape[::-1], borderMode=cv2.BORDER_REFLECT))

    return texture


@cache
def _pixels(name: str) -> Texture:
    from skimage import data

    pixels: Texture = np.asarray(getattr(data, name)(), dtype=np.float32)
    return pixels


def _standard(values: Texture) -> Texture:
    deviation = max(float(values.std()), 1e-6)
    standard: Texture = np.clip((values - values.mean()) / deviation, -3, 3).astype(np.float32)
    return standard


TRAINING_TEXTURES = (
    _flat,
    _clouds,
    _grain,
    _stripes,
    _fibres,
    _scratches,
    _patches,
    _photograph("brick"),
    _photograph("gravel"),
)
"""What training scenes are made of; the photographs are scikit-image's."""
HELD_OUT_TEXTURES = (_rings, _hatching, _specks, _photograph("grass"))
"""What scenes for measuring are made of."""
