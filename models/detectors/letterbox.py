"""Letterboxing: a picture resized with its proportions kept, and centred on grey in whole strides."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.detectors.base import Prepared

GREY = 114
"""Level of the border, as YOLO networks are trained with."""


def letterbox(levels_HWC: NDArray[Any], *, side_px: int, stride: int, stretch: bool = False) -> Prepared:
    """Resize a picture so that its longer side is ``side_px``, and pad both sides to whole strides.

    Sides are rounded to whole pixels, so the two axes have slightly different scales; ``Prepared`` keeps both, and maps
    boxes back exactly.

    Args:
        levels_HWC: uint8 (H, W, C).
        side_px: Longer side before padding; rounded up to whole strides.
        stride: What the sides of the input are multiples of.
        stretch: Give up the proportions and fill a square, as transformers are trained with.

    Returns:
        uint8 (C, H, W) with where the picture lies in it.
    """
    height, width = levels_HWC.shape[:2]
    side_px = math.ceil(side_px / stride) * stride
    ratio = side_px / max(height, width)
    new_wh = (side_px, side_px) if stretch else (max(round(width * ratio), 1), max(round(height * ratio), 1))
    if new_wh != (width, height):
        levels_HWC = cv2.resize(levels_HWC, new_wh, interpolation=cv2.INTER_LINEAR).reshape(new_wh[1], new_wh[0], -1)
    padded_wh = [math.ceil(side / stride) * stride for side in new_wh]
    left, top = ((padded - new) // 2 for padded, new in zip(padded_wh, new_wh, strict=True))
    canvas_HWC = np.full((padded_wh[1], padded_wh[0], levels_HWC.shape[2]), GREY, dtype=np.uint8)
    canvas_HWC[top : top + new_wh[1], left : left + new_wh[0]] = levels_HWC
    return Prepared(
        torch.from_numpy(canvas_HWC).permute(2, 0, 1).contiguous(),
        (width, height),
        (new_wh[0] / width, new_wh[1] / height),
        (left, top),
        key=tuple(padded_wh),
    )
