"""Synthetic microscopy: scenes of touching cells, with each cell's own pixels known.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.cards import Preprocessing
from models.recipes import cells_looks

LABELS = ("background", "interior", "border")
"""The classes, in the order of the network's outputs."""
BACKGROUND, INTERIOR, BORDER = range(3)
BORDER_PX = 3
"""How far into a cell its border reaches."""
PREPROCESSING = Preprocessing(mode="L", mean=[0.5], std=[0.25])
"""What a network is shown of a scene: its grey levels as they are."""
RADII_PX = (10.0, 36.0)
"""Typical radius of a scene's cells, drawn log-uniformly."""
_MARGIN_PX = 40
_CORNERS = 48

Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Scene:
    """One picture."""

    image: NDArray[np.uint8]
    """Grey levels, shape (H, W)."""
    cells: Labels
    """The number of the cell at each pixel, from 1; 0 is background. Shape (H, W)."""

    @property
    def classes(self) -> NDArray[np.uint8]:
        """The class of each pixel, shape (H, W)."""
        return classes_of(self.cells)

    def count(self, *, min_area_px: int = 0) -> int:
        """Count the cells with at least so many visible pixels."""
        areas = np.bincount(self.cells.ravel())[1:]
        return int((areas >= max(min_area_px, 1)).sum())


def scene(seed: int, *, size_wh: tuple[int, int] = (320, 320), held_out: bool = False) -> Scene:
    """Draw one scene.

    Args:
        seed: The same seed gives the same scene; training and measuring use ranges that do not meet.
        size_wh: Width and height in pixels.
        held_out: Whether cells and background have the textures that training never sees.
    """
    random = np.random.default_rng([seed, int(held_out)])
    width, height = (side + 2 * _MARGIN_PX for side in size_wh)
    low, high = np.log(RADII_PX)
    radius_px = float(np.exp(random.uniform(low, high)))
    cells_HW = _placed(random, (width, height), radius_px)
    image_HW = cells_looks.rendered(random, cells_HW, radius_px=radius_px, held_out=held_out)
    # Cells near the edge are cut as a microscope's field of view cuts them.
    inner = np.s_[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    return Scene(image=image_HW[inner].copy(), cells=_renumbered(cells_HW[inner]))


def classes_of(cells_HW: Labels) -> NDArray[np.uint8]:
    """Tell interior from border: what lies within ``BORDER_PX`` of the outside of its cell is border.

    Args:
        cells_HW: Shape (H, W), 0 is background.

    Returns:
        Shape (H, W), values as ``LABELS``; a cut by the picture's edge is no border.
    """
    inside = cells_looks.depth_px(cells_HW) > BORDER_PX
    return np.where(cells_HW == 0, BACKGROUND, np.where(inside, INTERIOR, BORDER)).astype(np.uint8)


def _placed(random: np.random.Generator, size_wh: tuple[int, int], radius_px: float) -> Labels:
    """Place cells alone and in clumps; later ones give way to earlier ones."""
    width, height = size_wh
    cells_HW = np.zeros((height, width), dtype=np.uint16)
    fill, clumping = random.uniform(0.1, 0.6), random.uniform(0.2, 0.9)
    wanted = max(3, round(fill * width * height / (np.pi * radius_px**2)))
    irregular = random.uniform(0.0, 0.16)
    stretch = random.uniform(1.0, 2.2)
    spread = random.uniform(0.05, 0.3)
    spots: list[tuple[float, float, float]] = []
    for _ in range(4 * wanted):
        radius = float(np.clip(radius_px * np.exp(random.normal(0, spread)), 9.0, 60.0))
        if spots and random.random() < clumping:
            x, y, other = spots[random.integers(len(spots))]
            angle, apart = random.uniform(0, 2 * np.pi), (radius + other) * random.uniform(0.85, 1.0)
            x, y = x + apart * np.cos(angle), y + apart * np.sin(angle)
        else:
            x, y = random.uniform(0, width), random.uniform(0, height)
        outline = _outline(random, radius, irregular=irregular, stretch=random.uniform(1.0, stretch))
        if _draw(cells_HW, outline + np.array([x, y]), number=len(spots) + 1):
            spots.append((float(x), float(y), radius))
        if len(spots) == wanted:
            break
    return cells_HW


def _outline(random: np.random.Generator, radius: float, *, irregular: float, stretch: float) -> NDArray[np.float64]:
    """Draw a closed curve around (0, 0): an ellipse with a few waves, perhaps bent; shape (corners, 2)."""
    angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    waves = sum(
        random.normal(0, irregular / order) * np.cos(order * angle + random.uniform(0, 2 * np.pi))
        for order in range(2, 6)
    )
    # The thinnest cells still have an interior.
    stretch = float(np.clip(stretch, 1.0, (radius / 8.5) ** 2)) if radius > 8.5 else 1.0
    x = radius * np.sqrt(stretch) * (1 + waves) * np.cos(angle)
    y = radius / np.sqrt(stretch) * (1 + waves) * np.sin(angle)
    y = y + random.choice([0.0, random.uniform(-0.35, 0.35)]) * x**2 / (radius * stretch)
    turn = random.uniform(0, 2 * np.pi)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1)


def _draw(cells_HW: Labels, outline: NDArray[np.float64], *, number: int) -> bool:
    """Fill a curve where nothing lies yet; gives up if too much lies there or the rest falls apart."""
    height, width = cells_HW.shape
    left, top = np.clip(np.floor(outline.min(axis=0)).astype(int), 0, (width, height))
    right, bottom = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 1, 0, (width, height))
    if right - left < 2 or bottom - top < 2:
        return False
    mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(outline - (left, top)).astype(np.int32)], 1)
    region = cells_HW[top:bottom, left:right]
    free = mask * (region == 0)
    if int(free.sum()) < 0.8 * max(int(mask.sum()), 1):
        return False
    # What is left between neighbours may have thin ends and waists, through which no interior would reach.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BORDER_PX + 5, 2 * BORDER_PX + 5))
    free = cv2.morphologyEx(free, cv2.MORPH_OPEN, kernel, borderType=cv2.BORDER_REPLICATE)
    parts, labels = cv2.connectedComponents(free, connectivity=4)
    if parts != 2:
        return False
    region[labels == 1] = number
    return True


def _renumbered(cells_HW: Labels) -> Labels:
    _, numbers = np.unique(np.append(cells_HW.ravel(), 0), return_inverse=True)
    return numbers[:-1].reshape(cells_HW.shape).astype(np.uint16)
