"""Where a network's input lies in the original picture.

Coordinates are continuous: pixel (0, 0) covers the square from 0 to 1, so a box of the whole picture ends at its size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.cards import Preprocessing


class Placement(NamedTuple):
    """How a picture was resized and cropped."""

    scale_xy: tuple[float, float]
    """Input pixels per original pixel."""
    offset_xy: tuple[int, int]
    """Left and top of the crop in the resized picture; negative where it was padded."""


def resized_size_wh(size_wh: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Compute width and height after resizing, as torchvision does."""
    resize = preprocessing.resize
    if resize is None:
        return size_wh
    if isinstance(resize, tuple):
        return resize[1], resize[0]
    width, height = size_wh
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def crop_size_wh(size_wh: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Compute width and height after the crop of a resized picture of ``size_wh``."""
    crop = preprocessing.crop
    if crop is None:
        return size_wh
    return (crop, crop) if isinstance(crop, int) else (crop[1], crop[0])


def placement(size_wh: tuple[int, int], preprocessing: Preprocessing) -> Placement:
    """Say how a picture of ``size_wh`` becomes the network's input."""
    resized = resized_size_wh(size_wh, preprocessing)
    cropped = crop_size_wh(resized, preprocessing)
    return Placement(
        scale_xy=(resized[0] / size_wh[0], resized[1] / size_wh[1]),
        offset_xy=(offset(resized[0], cropped[0]), offset(resized[1], cropped[1])),
    )


def input_xy_to_original_xy(
    points_xy: NDArray[np.floating], *, size_wh: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.float64]:
    """Map points of the network's input back to the original picture.

    Args:
        points_xy: Shape (..., 2), x before y, in pixels of the input.
        size_wh: Size of the original picture after EXIF orientation.
        preprocessing: What made the input.

    Returns:
        float64 of the same shape, in pixels of the original picture; outside of it where the input was padded.
    """
    scale_xy, offset_xy = placement(size_wh, preprocessing)
    return (np.asarray(points_xy, dtype=np.float64) + offset_xy) / scale_xy


def offset(resized: int, cropped: int) -> int:
    """Say where the crop begins along one axis of the resized picture; negative where it is padded with black."""
    # torchvision pads what is too small with the floor of the half, and crops what is too large at the rounded half.
    return -((cropped - resized) // 2) if cropped > resized else round((resized - cropped) / 2)
