from __future__ import annotations

import pytest
import torch

from models.detectors import selection
from models.detectors.base import Wanted
from models.detectors.selection import select

BOXES = torch.tensor(
    [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [50, 50, 60, 60], [50, 50, 60, 58], [90, 90, 99, 99]]
)
SCORES = torch.tensor([0.5, 0.9, 0.7, 0.3, 0.8, 0.25])
CLASSES = torch.tensor([0, 0, 1, 2, 2, 1])

CASES = {
    "no suppression": (Wanted(0.0), None, [1, 4, 2, 0, 3, 5]),
    "within classes": (Wanted(0.0), 0.5, [1, 4, 2, 5]),
    "across classes": (Wanted(0.0, class_agnostic=True), 0.5, [1, 4, 5]),
    "a high overlap is allowed": (Wanted(0.0), 0.95, [1, 4, 2, 0, 3, 5]),
    "an overlap of one is allowed": (Wanted(0.0), 1.0, [1, 4, 2, 0, 3, 5]),
    "a score at the threshold stays": (Wanted(0.25), 0.5, [1, 4, 2, 5]),
    "scores below go": (Wanted(0.26), 0.5, [1, 4, 2]),
    "only some classes": (Wanted(0.0, classes=(1, 2)), 0.5, [4, 2, 5]),
    "classes not wanted suppress nobody": (Wanted(0.0, classes=(1,), class_agnostic=True), 0.5, [2, 5]),
    "best first, not more": (Wanted(0.0, max_detections=2), 0.5, [1, 4]),
    "none": (Wanted(0.95), 0.5, []),
    "none without suppression": (Wanted(0.95), None, []),
}


@pytest.mark.parametrize(("wanted", "iou_threshold", "expected"), CASES.values(), ids=CASES)
def test_candidates_are_chosen(wanted, iou_threshold, expected):
    assert select(BOXES, SCORES, CLASSES, wanted, iou_threshold=iou_threshold).tolist() == expected


def test_only_the_best_of_very_many_candidates_suppress_one_another(monkeypatch):
    monkeypatch.setattr(selection, "MAX_CANDIDATES", 100)
    torch.manual_seed(0)
    corners, scores = torch.rand(5000, 2) * 10_000, torch.rand(5000)
    boxes = torch.cat([corners, corners + 4], 1)
    kept = select(boxes, scores, torch.zeros(5000, dtype=torch.int64), Wanted(0.0), iou_threshold=0.5)
    assert kept.tolist() == scores.topk(100).indices.tolist()
