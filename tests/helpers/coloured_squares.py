"""Detection networks that find red and blue rectangles exactly: geometry with known answers, in both families.

Suffixes: N batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, box_convert

from models.networks import yolo

GREY = (114, 114, 114)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def draw(
    size_wh: tuple[int, int], squares: list[tuple[tuple[int, int, int, int], tuple[int, int, int]]]
) -> Image.Image:
    """Draw rectangles (x1, y1, x2, y2) of a colour on grey."""
    levels = np.full((size_wh[1], size_wh[0], 3), GREY, dtype=np.uint8)
    for (x1, y1, x2, y2), colour in squares:
        levels[y1:y2, x1:x2] = colour
    return Image.fromarray(levels)


def find(x_CHW: Tensor, channel: int) -> list[list[float]]:
    """Find rectangles of one colour; edges where the colour, interpolated between pixel centres, is half there."""
    others = [other for other in (0, 1, 2) if other != channel]
    strength_HW = (x_CHW[channel] - x_CHW[others].amax(0)).float().clamp(0, 1).cpu().numpy()
    count, _, stats, _ = cv2.connectedComponentsWithStats((strength_HW > 0.25).astype(np.uint8))
    boxes = []
    for x, y, width, height, area in stats[1:count]:
        if area >= 4:
            row, column = strength_HW[y + height // 2], strength_HW[:, x + width // 2]
            (x1, x2), (y1, y2) = _edges(row, x + width // 2), _edges(column, y + height // 2)
            boxes.append([x1, y1, x2, y2])
    return boxes


def _edges(profile: np.ndarray, inside: int) -> tuple[float, float]:
    def cross(step: int) -> float:
        at = inside
        while 0 <= at + step < len(profile) and profile[at + step] >= 0.5:
            at += step
        if not 0 <= at + step < len(profile):
            return float(at + (step > 0))
        share = (profile[at] - 0.5) / (profile[at] - profile[at + step])
        return float(at + 0.5 + step * share)

    return cross(-1), cross(1)


class _Pixels(nn.Module):
    out_channels = 3

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW


class _Proposer(nn.Module):
    """Proposes every rectangle, whatever its colour."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def forward(self, images: Any, features: Any, targets: Any = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        found = [find(image, 0) + find(image, 2) for image in images.tensors]
        return [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in found], {}


class _MeanColour(nn.Module):
    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW.mean((2, 3))


class _RectangleMasks(nn.Module):
    """A mask that is the left half of its box."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        logits_NKHW = x_NCHW.new_full((x_NCHW.shape[0], 3, 28, 28), -9.0)
        logits_NKHW[..., :14] = 9.0
        return logits_NKHW


def two_stage(*, min_size: int = 64, max_size: int = 96, masks: bool = False) -> GeneralizedRCNN:
    """Build a Faster or Mask R-CNN of torchvision's classes: class 1 is red, class 2 blue."""
    predictor = FastRCNNPredictor(3, 3)
    with torch.no_grad():
        predictor.cls_score.weight.copy_(torch.tensor([[0.0, 0, 0], [8, -8, -8], [-8, -8, 8]]))
        predictor.cls_score.bias.copy_(torch.tensor([0.0, -4, -5]))
        predictor.bbox_pred.weight.zero_()
        predictor.bbox_pred.bias.zero_()
    parts: dict[str, Any] = {}
    if masks:
        pool = MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2)
        parts = {"mask_roi_pool": pool, "mask_head": nn.Identity(), "mask_predictor": _RectangleMasks()}
    pool = MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2)
    training = (0.5, 0.5, 512, 0.25, None)
    heads = RoIHeads(pool, _MeanColour(), predictor, *training, 0.05, 0.5, 100, **parts)
    transform = GeneralizedRCNNTransform(min_size, max_size, [0.0] * 3, [1.0] * 3)
    return GeneralizedRCNN(_Pixels(), _Proposer(), heads, transform)


def yolo_like(name: str = "yolov8n", *, copies: int = 1) -> nn.Module:
    """Build a YOLO of ultralytics whose forward pass is replaced: class 0 is red, class 1 blue.

    Args:
        name: Its description.
        copies: How often each rectangle is given, each copy less certain and a pixel further right.
    """
    network = yolo.build(name, nc=2)

    def forward(x_NCHW: Tensor, *_: object, **__: object) -> tuple[Any, None]:
        rows = [_decoded(x_CHW, copies) for x_CHW in x_NCHW]
        most = max(row.shape[1] for row in rows)
        boxes = torch.stack([nn.functional.pad(row, (0, most - row.shape[1])) for row in rows])
        if not name.endswith("-seg"):
            return boxes, None
        prototypes = nn.functional.avg_pool2d(x_NCHW[:, [0, 2]] - x_NCHW[:, [1, 1]] - 0.5, 4)
        return (torch.cat([boxes, boxes[:, 4:] * 10], 1), prototypes), None

    network.forward = forward  # type: ignore[method-assign]
    return network


def _decoded(x_CHW: Tensor, copies: int) -> Tensor:
    found = [(box, 0) for box in find(x_CHW, 0)] + [(box, 1) for box in find(x_CHW, 2)]
    columns = []
    for (x1, y1, x2, y2), class_id in found:
        for copy in range(copies):
            box = box_convert(torch.tensor([x1 + copy, y1, x2 + copy, y2]), "xyxy", "cxcywh")
            scores = torch.zeros(2)
            scores[class_id] = 0.9 - 0.3 * class_id - 0.1 * copy
            columns.append(torch.cat([box, scores]))
    return torch.stack(columns, 1) if columns else torch.zeros(6, 0)
