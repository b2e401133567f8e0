"""Pictures that look painted, drawn from a seed: styles for demonstrations, and textures for the encoder's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]
Random = np.random.Generator

STARRY = ((10, 18, 58), (20, 52, 122), (48, 98, 176), (112, 160, 208), (206, 214, 190), (246, 204, 70), (250, 160, 40))
GLASS = ((178, 30, 40), (20, 64, 140), (236, 172, 40), (30, 120, 84), (226, 226, 206), (112, 44, 120), (222, 104, 36))
TILES = ((226, 196, 148), (198, 110, 60), (60, 110, 128), (38, 62, 84), (240, 226, 196), (150, 56, 44), (126, 156, 140))
WASHES = ((244, 236, 222), (122, 170, 190), (226, 150, 122), (246, 206, 138), (94, 116, 156), (170, 196, 160))
DOTS = ((238, 206, 120), (92, 132, 70), (58, 88, 140), (220, 130, 90), (246, 240, 214), (140, 90, 130), (60, 60, 80))
FLAMES = ((30, 12, 30), (110, 20, 40), (196, 50, 30), (240, 130, 30), (252, 214, 110), (70, 110, 130), (20, 50, 90))
WAVES = ((18, 38, 78), (44, 92, 136), (130, 176, 190), (234, 226, 200), (214, 186, 142))


def starry(size_px: int, seed: int) -> Pixels:
    """Paint a night sky: thick strokes that follow whirls, with bright cores; RGB, uint8 (size_px, size_px, 3)."""
    return _brushed(size_px, seed, STARRY, whirls=9, length=26)


def flames(size_px: int, seed: int) -> Pixels:
    """Paint fiery strokes that stream past each other; RGB, uint8 (size_px, size_px, 3)."""
    return _brushed(size_px, seed, FLAMES, whirls=3, length=40)


def woodcut(size_px: int, seed: int) -> Pixels:
    """Cut lines that swell and thin with the light, black on cream; RGB, uint8 (size_px, size_px, 3)."""
    random = np.random.default_rng(seed)
    flow = _flow(size_px, random, whirls=5)
    light = _clouds(size_px, random, cells=3)
    grooves = _normalised(_streaked(_grain(size_px, random, sigma=1.6), flow, length=30))
    ink = 1 / (1 + np.exp(-28 * (grooves - (0.22 + 0.56 * light))))
    cream, black = np.array([238, 224, 194.0]), np.array([24, 22, 26.0])
    return _to_pixels(cream * (1 - ink[..., None]) + black * ink[..., None])


def glass(size_px: int, seed: int) -> Pixels:
    """Lead panes of coloured glass; RGB, uint8 (size_px, size_px, 3)."""
    return _panes(size_px, seed, GLASS, cell_px=58, joint_px=4.5, joint=(16, 14, 18), shading=0.3)


def mosaic(size_px: int, seed: int) -> Pixels:
    """Lay small stone tiles in courses of one tone; RGB, uint8 (size_px, size_px, 3)."""
    return _panes(size_px, seed, TILES, cell_px=17, joint_px=1.6, joint=(58, 50, 46), shading=0.2)


def washes(size_px: int, seed: int) -> Pixels:
    """Lay washes of watercolour over each other, dark at their edges; RGB, uint8 (size_px, size_px, 3)."""
    random = np.random.default_rng(seed)
    paper = np.array(WASHES[0], np.float32) / 255
    painted = np.broadcast_to(paper, (size_px, size_px, 3)).copy()
    for _ in range(9):
        shape = _clouds(size_px, random, cells=int(random.integers(3, 7)))
        level = float(np.quantile(shape, random.uniform(0.6, 0.85)))
        inside = np.clip((shape - level) * 60, 0, 1)
        edge = np.exp(-(((shape - level) / 0.02) ** 2)) * inside
        pigment = np.array(WASHES[1 + int(random.integers(len(WASHES) - 1))], np.float32) / 255
        strength = inside * (0.3 + 0.35 * _clouds(size_px, random, cells=9)) + 0.3 * edge
        painted *= 1 - strength[..., None] * (1 - pigment)
    grain = cv2.GaussianBlur(random.normal(0, 1, (size_px, size_px)).astype(np.float32), (0, 0), 1.2)
    return _to_pixels(255 * painted * (1 + 0.06 * grain[..., None]))


def dots(size_px: int, seed: int) -> Pixels:
    """Set dabs of pure colour side by side; RGB, uint8 (size_px, size_px, 3)."""
    random = np.random.default_rng(seed)
    field = _clouds(size_px, random, cells=4)
    canvas = np.full((size_px, size_px, 3), (226, 214, 186), np.uint8)
    for _ in range(size_px * size_px // 22):
        x, y = (int(value) for value in random.integers(0, size_px, 2))
        near = field[y, x] * len(DOTS) + random.normal(0, 0.9)
        colour = DOTS[int(np.clip(near, 0, len(DOTS) - 1))]
        shade = [float(np.clip(level + random.normal(0, 12), 0, 255)) for level in colour]
        cv2.circle(canvas, (x, y), int(random.integers(2, 5)), shade, -1, cv2.LINE_AA)
    return canvas


def waves(size_px: int, seed: int) -> Pixels:
    """Print bands of water one above the other, with outlines; RGB, uint8 (size_px, size_px, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32)
    bend = 60 * _clouds(size_px, random, cells=5) + 14 * np.sin(x / 21 + 4 * _clouds(size_px, random, cells=3))
    phase = (y + bend) / 22
    band, within = np.floor(phase).astype(int), phase % 1
    order = random.integers(0, len(WAVES), int(band.max()) + 1)
    painted = np.array(WAVES, np.float32)[order[band]]
    painted = painted * (0.78 + 0.3 * within[..., None])
    line = np.clip(1 - np.minimum(within, 1 - within) * 22 / 1.8, 0, 1)[..., None]
    return _to_pixels(painted * (1 - line) + np.array([18, 26, 48.0]) * line)


STYLES: dict[str, Callable[[int, int], Pixels]] = {
    "starry": starry,
    "flames": flames,
    "woodcut": woodcut,
    "glass": glass,
    "mosaic": mosaic,
    "washes": washes,
    "dots": dots,
    "waves": waves,
}
"""Name → function of the side in pixels and the seed."""


def _brushed(size_px: int, seed: int, palette: tuple[tuple[int, int, int], ...], *, whirls: int, length: int) -> Pixels:
    """Smear dabs of a palette along a flow, and light the ridges of the paint."""
    random = np.random.default_rng(seed)
    flow = _flow(size_px, random, whirls)
    tone = 0.8 * _clouds(size_px, random, cells=5) + 0.3 * _grain(size_px, random, sigma=3.0)
    strokes = _normalised(_streaked(_normalised(tone), flow, length))
    table = np.stack(
        [np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(palette)), c) for c in zip(*palette, strict=True)]
    )
    painted = table.T[(strokes * 255).astype(int)]
    bristles = _streaked(_grain(size_px, random, sigma=0.9), flow, length // 2)
    relief = cv2.Sobel(bristles, cv2.CV_32F, 1, 1, ksize=3) + (bristles - bristles.mean())
    return _to_pixels(painted * (1 + 0.22 * relief[..., None] / relief.std()).clip(0.55, 1.5))


def _panes(
    size_px: int,
    seed: int,
    palette: tuple[tuple[int, int, int], ...],
    *,
    cell_px: float,
    joint_px: float,
    joint: tuple[int, int, int],
    shading: float,
) -> Pixels:
    """Fill the Voronoi cells of jittered points with neighbouring tones, and their seams with another."""
    random = np.random.default_rng(seed)
    side = np.arange(-cell_px, size_px + 2 * cell_px, cell_px)
    points = (
        np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        + random.uniform(-0.42, 0.42, (len(side) ** 2, 2)) * cell_px
    )
    y, x = np.mgrid[0:size_px, 0:size_px]
    distances, nearest = cKDTree(points).query(np.stack([x.ravel(), y.ravel()], 1), k=2)
    first, second = points[nearest[:, 0]], points[nearest[:, 1]]
    # The distance to the seam between two cells, exact for straight seams.
    seam = ((distances[:, 1] ** 2 - distances[:, 0] ** 2) / (2 * np.linalg.norm(first - second, axis=1))).reshape(
        size_px, size_px
    )
    clouds = _clouds(size_px, random, cells=4)
    at = np.clip(points.round().astype(int), 0, size_px - 1)
    place = clouds[at[:, 1], at[:, 0]] * len(palette) + random.normal(0, 0.8, len(points))
    tones = np.array(palette, float)[np.clip(place, 0, len(palette) - 1).astype(int)] + random.normal(
        0, 11, (len(points), 3)
    )
    painted = tones[nearest[:, 0]].reshape(size_px, size_px, 3)
    painted = painted * (1 - shading / 2 + shading * _clouds(size_px, random, cells=24))[..., None]
    open_ = np.clip(seam - joint_px + 0.5, 0, 1)[..., None]
    return _to_pixels(painted * open_ + np.array(joint, float) * (1 - open_))


def _flow(size_px: int, random: Random, whirls: int) -> NDArray[np.float32]:
    """A unit vector (x, y) at each pixel: a slow stream with whirls in it, float32 (size_px, size_px, 2)."""
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32) / size_px
    angle = 1.2 * (_clouds(size_px, random, cells=3) - 0.5) + random.uniform(-0.4, 0.4)
    u, v = np.cos(angle), np.sin(angle)
    for _ in range(whirls):
        centre, radius = random.uniform(0, 1, 2), random.uniform(0.06, 0.2)
        dx, dy = x - centre[0], y - centre[1]
        pull = 3 * np.exp(-(dx**2 + dy**2) / radius**2) * random.choice([-1, 1]) / radius
        u, v = u - pull * dy, v + pull * dx
    norm = np.hypot(u, v) + 1e-6
    return np.stack([u / norm, v / norm], axis=-1).astype(np.float32)


def _streaked(field: Field, flow: NDArray[np.float32], length: int) -> Field:
    """Smear a field along a flow: line integral convolution (Cabral and Leedom, 1993)."""
    total = field.copy()
    for sign in (-1, 1):
        y, x = np.mgrid[0 : field.shape[0], 0 : field.shape[1]].astype(np.float32)
        for _ in range(length // 2):
            x += sign * cv2.remap(flow[..., 0], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            y += sign * cv2.remap(flow[..., 1], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            total += cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return (total / (length + 1)).astype(np.float32)


def _clouds(size_px: int, random: Random, cells: int) -> Field:
    """Smooth noise of three octaves, spread evenly over [0, 1]."""
    total = np.zeros((size_px, size_px), np.float32)
    for octave in range(3):
        coarse = random.random((cells * 2**octave + 1,) * 2, dtype=np.float32)
        total += 0.5**octave * cv2.resize(coarse, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return _normalised(total)


def _grain(size_px: int, random: Random, sigma: float) -> Field:
    """Blurred noise in [0, 1]."""
    return _normalised(cv2.GaussianBlur(random.random((size_px, size_px), dtype=np.float32), (0, 0), sigma))


def _normalised(field: NDArray[Any]) -> Field:
    """Spread a field over [0, 1], its outermost hundredths clipped."""
    low, high = np.quantile(field, (0.01, 0.99))
    spread: Field = np.clip((field - low) / (high - low), 0, 1).astype(np.float32)
    return spread


def _to_pixels(levels: NDArray[Any]) -> Pixels:
    pixels: Pixels = np.clip(levels, 0, 255).round().astype(np.uint8)
    return pixels
