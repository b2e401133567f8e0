"""Masks of single things: small soft maps while on the device, bits in pixels of the picture when asked for.

Suffixes: N instances, H and W rows and columns of the map or picture that the name says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks


@dataclass(frozen=True)
class InstanceMask:
    """One thing's pixels: bool (H, W) whose left top pixel is ``corner_xy`` of the picture."""

    bits: NDArray[np.bool_]
    corner_xy: tuple[int, int]

    def moved(self, offset_xy: tuple[int, int]) -> InstanceMask:
        """The same pixels in a larger picture of which this one was a slice."""
        return InstanceMask(self.bits, (self.corner_xy[0] + offset_xy[0], self.corner_xy[1] + offset_xy[1]))

    def rle(self, size_wh: tuple[int, int]) -> tuple[tuple[int, int], str]:
        """Encode as COCO does.

        Args:
            size_wh: Of the picture.

        Returns:
            The picture's height and width, and the compressed counts.
        """
        whole_HW = np.zeros((size_wh[1], size_wh[0]), dtype=np.uint8, order="F")
        self._paste(whole_HW)
        counts: bytes = coco.encode(whole_HW)["counts"]
        return (size_wh[1], size_wh[0]), counts.decode("ascii")

    def _paste(self, whole_HW: NDArray[Any]) -> None:
        (left, top), (height, width) = self.corner_xy, self.bits.shape
        whole_HW[top : top + height, left : left + width] |= self.bits


def union(masks: Sequence[InstanceMask]) -> InstanceMask:
    """Join the pixels of several masks of one picture."""
    if len(masks) == 1:
        return masks[0]
    corners = np.array([mask.corner_xy for mask in masks])
    ends = corners + [mask.bits.shape[::-1] for mask in masks]
    left, top = corners.min(axis=0).tolist()
    right, bottom = ends.max(axis=0).tolist()
    joined = InstanceMask(np.zeros((bottom - top, right - left), dtype=bool), (left, top))
    for mask in masks:
        mask.moved((-left, -top))._paste(joined.bits)
    return joined


class SoftMasks(ABC):
    """The masks of one picture's detections before they are drawn into it; small, on the CPU."""

    @abstractmethod
    def draw(self, index: int) -> InstanceMask:
        """Give one detection's pixels in the picture."""


@dataclass(frozen=True)
class BoxMasks(SoftMasks):
    """Mask R-CNN's: a map of fixed size in each box (He et al. 2017).

    Attributes:
        probabilities: float32 (N, 1, H, W), the map of each box.
        boxes_xyxy: float32 (N, 4), in pixels of the picture.
        size_wh: Of the picture.
    """

    probabilities: Tensor
    boxes_xyxy: Tensor
    size_wh: tuple[int, int]

    def draw(self, index: int) -> InstanceMask:
        """Stretch the map over its box as torchvision's ``paste_masks_in_image`` does, cut at 0.5."""
        map_11HW, scale = expand_masks(self.probabilities[index : index + 1], padding=1)
        left, top, right, bottom = expand_boxes(self.boxes_xyxy[index : index + 1], scale)[0].to(torch.int64).tolist()
        size_hw = (max(bottom - top + 1, 1), max(right - left + 1, 1))
        stretched_HW = functional.interpolate(map_11HW, size=size_hw, mode="bilinear", align_corners=False)[0, 0]
        rows = slice(max(-top, 0), max(self.size_wh[1] - top, 0))
        columns = slice(max(-left, 0), max(self.size_wh[0] - left, 0))
        return InstanceMask((stretched_HW[rows, columns] > 0.5).numpy(), (max(left, 0), max(top, 0)))


@dataclass(frozen=True)
class PrototypeMasks(SoftMasks):
    """YOLO's: prototypes of the whole input weighted by each detection, cut to its box (YOLACT, Bolya et al. 2019).

    Attributes:
        logits: float32 (N, H, W), on the prototypes' grid; positive is inside.
        boxes_xyxy: float32 (N, 4), in pixels of the picture.
        scale_xy: Grid cells per pixel of the picture.
        offset_xy: Where the picture's corner lies in the grid.
        size_wh: Of the picture.
    """

    logits: Tensor
    boxes_xyxy: Tensor
    scale_xy: tuple[float, float]
    offset_xy: tuple[float, float]
    size_wh: tuple[int, int]

    def draw(self, index: int) -> InstanceMask:
        """Sample the logits, bilinearly, at the centre of every pixel whose left top corner the box holds."""
        x1, y1, x2, y2 = self.boxes_xyxy[index].tolist()
        left, top = int(np.ceil(x1)), int(np.ceil(y1))
        right, bottom = min(int(np.ceil(x2)), self.size_wh[0]), min(int(np.ceil(y2)), self.size_wh[1])
        rows_HW = _sample(self.logits[index], top, bottom, self.scale_xy[1], self.offset_xy[1])
        logits_WH = _sample(rows_HW.T, left, right, self.scale_xy[0], self.offset_xy[0])
        return InstanceMask((logits_WH.T > 0).numpy(), (left, top))


def _sample(grid: Tensor, start: int, stop: int, scale: float, offset: float) -> Tensor:
    """Interpolate rows of a grid at the centres of pixels ``start`` to ``stop``."""
    centres = (torch.arange(start, max(stop, start)) + 0.5) * scale + offset - 0.5
    centres = centres.clamp(0, grid.shape[0] - 1)
    below = centres.floor().long()
    above = (below + 1).clamp(max=grid.shape[0] - 1)
    return torch.lerp(grid[below], grid[above], (centres - below).to(grid.dtype)[:, None])
