"""Signed values as pictures: mid-grey is zero.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

SHOWN_PX = 128
"""Smaller pictures are enlarged by whole factors as long as they stay within this, so that they can be seen."""
CLIPPED = 0.001
"""Share of the values but zero that may lie beyond black and white, lest a few extremes turn the rest to grey."""

Pixels = NDArray[np.uint8]
"""RGB of shape (H, W, 3)."""


def signed_to_rgb(values_CHW: Tensor) -> Pixels:
    """Show signed values: zero becomes mid-grey, the largest absolute value black or white.

    All channels share one scale, so that colours are those of the input.

    Args:
        values_CHW: Any floating dtype; three channels are colours, one is grey, others are laid out side by side.

    Returns:
        RGB of shape (H, W, 3); of the montage where there are neither one nor three channels.
    """
    values = values_CHW.detach().float().cpu().numpy()
    sizes = np.abs(values[values != 0])
    scale = float(np.quantile(sizes, 1 - CLIPPED, method="higher")) if sizes.size else 1.0
    levels = np.clip(127.5 + 127.5 * values / scale, 0, 255).round().astype(np.uint8)
    return _as_rgb(levels)


def unit_to_rgb(values_CHW: Tensor) -> Pixels:
    """Turn a picture with values in [0, 1] into RGB of 8 bits."""
    return _as_rgb((values_CHW.detach().float().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8))


def cropped(values_CHW: Tensor, box_xyxy: tuple[int, int, int, int]) -> Tensor:
    """Cut a box out, as far as it lies inside."""
    left, top, right, bottom = box_xyxy
    return values_CHW[:, max(0, top) : max(0, bottom), max(0, left) : max(0, right)]


def picture(pixels: Pixels) -> Image.Image:
    """Make a picture that is large enough to be looked at; the pixels of a small one stay visible squares."""
    image = Image.fromarray(pixels)
    factor = SHOWN_PX // max(image.size)
    size_wh = (image.width * factor, image.height * factor)
    return image.resize(size_wh, Image.Resampling.NEAREST) if factor > 1 else image


def _as_rgb(levels_CHW: Pixels) -> Pixels:
    channels = len(levels_CHW)
    if channels == 3:
        return np.ascontiguousarray(levels_CHW.transpose(1, 2, 0))
    plane_HW = levels_CHW[0] if channels == 1 else _montage(levels_CHW)
    return np.repeat(plane_HW[..., None], 3, axis=2)


def _montage(levels_CHW: Pixels) -> Pixels:
    """Lay channels out in a grid that is about square, a white line between them."""
    channels, height, width = levels_CHW.shape
    columns = int(np.ceil(np.sqrt(channels)))
    rows = -(-channels // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), 255, np.uint8)
    for index, level_HW in enumerate(levels_CHW):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = level_HW
    return sheet
