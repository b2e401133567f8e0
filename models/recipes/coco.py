"""Measures detectors as COCO does: average precision by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models.recipes.pages import Page

BATCH = 16
"""Pages that a detector is given at once."""
MAX_DETECTIONS = 100
"""Of a page, the best so many count, as in COCO."""


@dataclass(frozen=True)
class Detections:
    """What a detector found on one page."""

    boxes_xyxy: NDArray[np.float32]
    """float32 of shape (D, 4) in pixels."""
    scores: NDArray[np.float32]
    """float32 of shape (D,) in [0, 1]."""
    labels: NDArray[np.int64]
    """int64 of shape (D,), as the pages number them."""


Detector = Callable[[Sequence[NDArray[np.uint8]]], Sequence[Detections]]
"""From pages, RGB uint8 of shape (H, W, 3), to what is on each."""


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision: the area below the precision-recall curve, a fraction of 1."""

    map50: float
    """Mean over the classes where boxes that overlap by an IoU of 0.5 match."""
    map50_95: float
    """The same, averaged over ten IoU thresholds from 0.5 to 0.95."""
    per_class: dict[str, float]
    """``map50_95`` of each class."""
    num_pages: int
    """Pages measured on."""
    num_objects: int
    """True objects on them."""


def evaluate(detector: Detector, pages: Sequence[Page], labels: Sequence[str]) -> AveragePrecision:
    """Run a detector over pages and compare with the truth.

    Args:
        detector: Called with at most ``BATCH`` pages at a time.
        pages: The pages; each class of ``labels`` should appear on some.
        labels: Names of the classes.
    """
    found: list[dict[str, object]] = []
    for start in range(0, len(pages), BATCH):
        batch = pages[start : start + BATCH]
        for number, detections in enumerate(detector([page.pixels for page in batch]), start):
            found.extend(_results(number, detections))
    # pycocotools reports on stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _truth(pages, labels)
        measured = COCOeval(truth, truth.loadRes(found) if found else _nothing(truth), "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    # (IoU thresholds, recalls, classes, areas, limits of detections); -1 where a class never appears.
    precision: NDArray[np.float64] = measured.eval["precision"][..., 0, -1]
    seen = precision.min(axis=(0, 1)) >= 0
    return AveragePrecision(
        map50=float(measured.stats[1]),
        map50_95=float(measured.stats[0]),
        per_class={label: float(precision[:, :, index].mean()) for index, label in enumerate(labels) if seen[index]},
        num_pages=len(pages),
        num_objects=sum(len(page.labels) for page in pages),
    )


def _truth(pages: Sequence[Page], labels: Sequence[str]) -> COCO:
    annotations = [
        {
            "image_id": number,
            "category_id": int(label),
            "bbox": _xyxy_to_xywh(box),
            "area": float((box[2] - box[0]) * (box[3] - box[1])),
            "iscrowd": 0,
        }
        for number, page in enumerate(pages)
        for box, label in zip(page.boxes_xyxy, page.labels, strict=True)
    ]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(len(pages))],
        "categories": [{"id": index, "name": label} for index, label in enumerate(labels)],
        # An id of 0 would count as no match.
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)],
    }
    truth.createIndex()
    return truth


def _nothing(truth: COCO) -> COCO:
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _results(number: int, detections: Detections) -> Iterator[dict[str, object]]:
    best = np.argsort(-detections.scores, kind="stable")[:MAX_DETECTIONS]
    for index in best:
        yield {
            "image_id": number,
            "category_id": int(detections.labels[index]),
            "bbox": _xyxy_to_xywh(detections.boxes_xyxy[index]),
            "score": float(detections.scores[index]),
        }


def _xyxy_to_xywh(box: NDArray[np.float32]) -> list[float]:
    left, top, right, bottom = (float(edge) for edge in box)
    return [left, top, right - left, bottom - top]
