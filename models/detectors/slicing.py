"""Large pictures in overlapping slices, and one list of detections out of those of the slices (SAHI:
Akyon et al. 2022).

Boxes are matched by supervision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from models.detectors.base import Found
from models.detectors.masks import InstanceMask, union

MAX_MERGED = 10_000
"""Detections of all slices that are matched with one another: the best."""


@dataclass(frozen=True)
class Matching:
    """How doubles are told and ended.

    Attributes:
        merge: ``nms`` keeps the strongest of doubles; ``nmm`` joins their boxes and masks, with the strongest's score.
        metric: Overlap as intersection over ``iou`` union, or over the smaller of the two, ``ios``.
        threshold: From this overlap on, two boxes are one thing.
        class_agnostic: Whether boxes of different classes may be one thing.
    """

    merge: Literal["nms", "nmm"]
    metric: Literal["iou", "ios"]
    threshold: float
    class_agnostic: bool = False


@dataclass
class Gathered:
    """Detections of a whole picture as arrays, best first.

    Attributes:
        boxes_xyxy: float64 (N, 4), in pixels of the picture.
        scores: float64 (N,).
        class_ids: int64 (N,).
        masks: One for each, or none at all.
    """

    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    masks: list[InstanceMask]


def corners(size_wh: tuple[int, int], slice_wh: tuple[int, int], overlap: float) -> list[tuple[int, int]]:
    """Place slices of one size, row by row; the last of a row or column is moved inwards rather than cut.

    Args:
        size_wh: Of the picture.
        slice_wh: Of a slice; where the picture is smaller, a slice is as large as the picture.
        overlap: Least share of a slice's side that neighbours have in common.

    Returns:
        The left top corner of each, in pixels of the picture.
    """
    columns, rows = (_starts(*sides, overlap) for sides in zip(size_wh, slice_wh, strict=True))
    return [(left, top) for top in rows for left in columns]


def _starts(length: int, part: int, overlap: float) -> list[int]:
    if part >= length:
        return [0]
    step = max(int(part * (1 - overlap)), 1)
    return [*range(0, length - part, step), length - part]


def gather(found: Found, corner_xy: tuple[int, int] = (0, 0)) -> Gathered:
    """Move the detections of a slice to where it lies in the picture, and draw their masks."""
    masks = [] if found.masks is None else [found.masks.draw(index) for index in range(len(found))]
    return Gathered(
        found.boxes_xyxy.double().numpy() + np.array(corner_xy * 2),
        found.scores.double().numpy(),
        found.class_ids.numpy(),
        [mask.moved(corner_xy) for mask in masks],
    )


def combine(parts: Sequence[Gathered], matching: Matching, *, max_detections: int) -> Gathered:
    """Make one list of the detections of overlapping slices.

    Args:
        parts: Of each slice.
        matching: How doubles are told and ended.
        max_detections: At most so many, best first.
    """
    parts = parts or [gather(Found())]
    scores = np.concatenate([part.scores for part in parts])
    # Stable, so that equal scores stay in the order of the slices.
    order = np.argsort(-scores, kind="stable")[:MAX_MERGED]
    boxes = np.concatenate([part.boxes_xyxy for part in parts])[order]
    classes = np.concatenate([part.class_ids for part in parts])[order]
    scores = scores[order]
    masks = [mask for part in parts for mask in part.masks]
    masks = [masks[index] for index in order] if masks else []
    groups = _groups(boxes, scores, classes, matching)[:max_detections]
    best = np.array([group[0] for group in groups], dtype=np.int64)
    kept = Gathered(boxes[best], scores[best], classes[best], [masks[index] for index in best] if masks else [])
    if matching.merge == "nmm":
        kept.boxes_xyxy = np.array([_hull(boxes[group]) for group in groups]).reshape(-1, 4)
        kept.masks = [union([masks[index] for index in group]) for group in groups] if masks else []
    return kept


def _groups(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], classes: NDArray[np.int64], matching: Matching
) -> list[list[int]]:
    """Indices of each thing's doubles, the strongest first; the strongest things first.

    Suppression is the same greedy grouping as merging, of which only the strongest stay: so one call serves both, and
    needs no matrix of all pairs.
    """
    if len(boxes) == 0:
        return []
    columns = [boxes, scores[:, None]] if matching.class_agnostic else [boxes, scores[:, None], classes[:, None]]
    metric = sv.OverlapMetric.IOU if matching.metric == "iou" else sv.OverlapMetric.IOS
    found = sv.box_non_max_merge(np.hstack(columns), iou_threshold=matching.threshold, overlap_metric=metric)
    # Scores fall with the index, so the smallest index of a group is its strongest.
    return sorted(sorted(int(index) for index in group) for group in found)


def _hull(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    hull: NDArray[np.float64] = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    return hull
