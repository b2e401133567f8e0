"""From candidate boxes to detections: thresholds, classes, non-maximum suppression.

Leaving out scores commutes with suppression, since a weaker box never suppresses a stronger one; so does leaving out
classes unless suppression is class-agnostic, where the caller's classes go first. Hence one order serves all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from models.detectors.base import Wanted

MAX_CANDIDATES = 30_000
"""Candidates of one picture that may suppress one another: the best. ultralytics has the same limit."""


def select(
    boxes_xyxy: Tensor, scores: Tensor, class_ids: Tensor, wanted: Wanted, *, iou_threshold: float | None
) -> Tensor:
    """Choose among candidates.

    Args:
        boxes_xyxy: float32 (N, 4).
        scores: float32 (N,).
        class_ids: int64 (N,).
        wanted: What is wanted; its own IoU threshold counts only through the next argument.
        iou_threshold: For suppression; ``None`` means none is needed.

    Returns:
        int64 (M,), indices of those that stay, best first.
    """
    keep = torch.where(scores >= wanted.score_threshold)[0]
    if wanted.classes is not None:
        keep = keep[torch.isin(class_ids[keep], class_ids.new_tensor(wanted.classes))]
    if iou_threshold is None or iou_threshold >= 1:
        order = scores[keep].argsort(descending=True, stable=True)
        return keep[order][: wanted.max_detections]
    if len(keep) > MAX_CANDIDATES:
        keep = keep[scores[keep].topk(MAX_CANDIDATES).indices]
    groups = torch.zeros_like(class_ids[keep]) if wanted.class_agnostic else class_ids[keep]
    best = batched_nms(boxes_xyxy[keep], scores[keep], groups, iou_threshold)
    return keep[best[: wanted.max_detections]]
