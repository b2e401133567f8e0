"""Vectors and maps of signed numbers as colours: blue below zero, red above."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PALEST, _PALENESS = 250, 130
"""Grey level of white under a map, and how much darker black is."""
_BLUE, _WHITE, _RED = np.array([33, 102, 172.0]), np.array([247, 247, 247.0]), np.array([178, 24, 43.0])


def diverging(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Colour numbers: shape (...) becomes (..., 3), uint8; white is 0, the largest absolute value is full colour."""
    spread = np.asarray(values, dtype=np.float32)
    spread = np.clip(spread / max(float(np.abs(spread).max(initial=0)), 1e-12), -1, 1)[..., None]
    mixed = _WHITE + np.abs(spread) * (np.where(spread < 0, _BLUE, _RED) - _WHITE)
    return np.asarray(mixed.round(), dtype=np.uint8)


def heat_strip(vector: NDArray[Any], size_wh: tuple[int, int]) -> Image.Image:
    """Draw a vector as a strip of cells, in rows where it has more numbers than fit side by side."""
    width, height = size_wh
    columns = min(len(vector), max(1, width // 3))
    rows = -(-len(vector) // columns)
    cells = np.zeros(rows * columns, np.float32)
    cells[: len(vector)] = vector
    picture = Image.fromarray(diverging(cells.reshape(rows, columns)))
    return picture.resize((width, max(height, rows)), Image.Resampling.NEAREST)


def heat_overlay(picture: Image.Image, values_HW: NDArray[Any], *, opacity: float = 0.85) -> Image.Image:
    """Lay a signed map over a picture in pale grey; the larger a value, the less of the picture shines through."""
    # Pale, since red and blue can be told apart on neither black nor white ink.
    grey = picture.convert("L").point([_PALEST - _PALENESS * (255 - level) // 255 for level in range(256)])
    fitting = cv2.INTER_AREA if grey.width < values_HW.shape[1] else cv2.INTER_NEAREST
    values_HW = cv2.resize(np.asarray(values_HW, dtype=np.float32), grey.size, interpolation=fitting)
    weight = np.abs(values_HW)
    weight = np.clip(weight / max(float(np.quantile(weight, 0.995)), 1e-12), 0, 1) * opacity * 255
    signs = np.where(values_HW < 0, 0, 255).astype(np.uint8)
    colors = Image.fromarray(diverging(np.array([-1.0, 1.0]))[signs // 255])
    return Image.composite(colors, grey.convert("RGB"), Image.fromarray(weight.astype(np.uint8)))
