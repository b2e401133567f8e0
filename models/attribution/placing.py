"""Maps of a network's input laid back onto the original picture.

Shape suffixes: h w of the input, H W of the original.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.cards import Preprocessing
from models.geometry import placement


def to_original(
    map_hw: NDArray[np.floating[Any]], size_wh: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.float32]:
    """Resample a map; pixels that the network did not see are 0.

    Values are interpolated where the original has more pixels than the input, and averaged where it has fewer.

    Args:
        map_hw: One value per pixel of the input.
        size_wh: Width and height of the original, after EXIF orientation.
        preprocessing: What made the input.

    Returns:
        float32 (H, W).
    """
    across, down = _axes(map_hw.shape, size_wh, preprocessing)
    resampled: NDArray[np.float32] = _weights(*down) @ map_hw.astype(np.float32) @ _weights(*across).T
    return resampled


def segments_to_original(
    segments_hw: NDArray[np.integer[Any]], size_wh: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.uint16]:
    """Give every original pixel the number of its superpixel, counted from 1; 0 where the network did not see it.

    Args:
        segments_hw: Numbered from 0, at most 65,534.
        size_wh: As in ``to_original``.
        preprocessing: As in ``to_original``.
    """
    across, down = _axes(segments_hw.shape, size_wh, preprocessing)
    (columns, seen_W), (rows, seen_H) = _nearest(*across), _nearest(*down)
    numbers = segments_hw[rows[:, None], columns[None, :]] + 1
    return (numbers * (seen_H[:, None] & seen_W[None, :])).astype(np.uint16)


_Axis = tuple[int, int, float, int]
"""Pixels of the original and of the input along one axis, input pixels per original pixel, offset of the crop."""


def _axes(shape: tuple[int, ...], size_wh: tuple[int, int], preprocessing: Preprocessing) -> tuple[_Axis, _Axis]:
    placed = placement(size_wh, preprocessing)
    return (
        (size_wh[0], shape[1], placed.scale_xy[0], placed.offset_xy[0]),
        (size_wh[1], shape[0], placed.scale_xy[1], placed.offset_xy[1]),
    )


def _centres(original: int, scale: float, offset: int) -> NDArray[np.float64]:
    return (np.arange(original, dtype=np.float64) + 0.5) * scale - offset


def _nearest(original: int, size: int, scale: float, offset: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    at = np.floor(_centres(original, scale, offset)).astype(np.int64)
    return at.clip(0, size - 1), (at >= 0) & (at < size)


def _weights(original: int, size: int, scale: float, offset: int) -> NDArray[np.float32]:
    """What each input pixel gives to each original one along an axis: (original, size)."""
    centres = _centres(original, scale, offset)
    reach: NDArray[np.floating[Any]]
    if scale > 1:
        low, high = centres[:, None] - scale / 2, centres[:, None] + scale / 2
        reach = np.minimum(high, np.arange(size) + 1) - np.maximum(low, np.arange(size))
    else:
        reach = 1 - np.abs(centres[:, None].clip(0.5, size - 0.5) - (np.arange(size) + 0.5))
    weights = np.maximum(reach, 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    weights[(centres < 0) | (centres >= size)] = 0
    answer: NDArray[np.float32] = weights.astype(np.float32)
    return answer
