from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from models.detectors.base import Found
from models.detectors.masks import InstanceMask
from models.detectors.slicing import Gathered, Matching, combine, corners, gather

NMS = Matching("nms", "iou", 0.5)
NMM = Matching("nmm", "iou", 0.5)


@pytest.mark.parametrize("size_wh", [(1000, 700), (640, 640), (641, 640), (100, 2000), (10_000, 10_000)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.75])
def test_slices_cover_the_picture_and_overlap_at_least_as_asked(size_wh, overlap):
    slice_wh = (640, 512)
    found = corners(size_wh, slice_wh, overlap)
    assert len(set(found)) == len(found)
    for axis in (0, 1):
        part, starts = min(slice_wh[axis], size_wh[axis]), sorted({corner[axis] for corner in found})
        assert starts[0] == 0
        assert starts[-1] == size_wh[axis] - part
        assert all(later - earlier <= part * (1 - overlap) for earlier, later in pairwise(starts))


def parts(*rows: tuple[tuple[float, float, float, float], float, int], masks: bool = False) -> Gathered:
    boxes = np.array([row[0] for row in rows], dtype=float).reshape(-1, 4)
    drawn = [
        InstanceMask(np.ones((int(y2 - y1), int(x2 - x1)), dtype=bool), (int(x1), int(y1))) for x1, y1, x2, y2 in boxes
    ]
    return Gathered(
        boxes, np.array([row[1] for row in rows]), np.array([row[2] for row in rows]), drawn if masks else []
    )


LEFT, RIGHT = (0, 0, 60, 40), (20, 0, 80, 40)


def test_of_doubles_the_strongest_stays():
    found = combine([parts((LEFT, 0.6, 1)), parts((RIGHT, 0.8, 1))], NMS, max_detections=9)
    assert (found.boxes_xyxy.tolist(), found.scores.tolist()) == ([list(RIGHT)], [0.8])


def test_or_their_boxes_and_masks_join_under_the_stronger_score():
    found = combine([parts((LEFT, 0.6, 1), masks=True), parts((RIGHT, 0.8, 1), masks=True)], NMM, max_detections=9)
    assert (found.boxes_xyxy.tolist(), found.scores.tolist()) == ([[0, 0, 80, 40]], [0.8])
    assert found.masks[0].bits.shape == (40, 80)


def test_things_of_different_classes_are_no_doubles_unless_told():
    two = [parts((LEFT, 0.6, 1)), parts((RIGHT, 0.8, 2))]
    assert len(combine(two, NMS, max_detections=9).scores) == 2
    assert len(combine(two, Matching("nms", "iou", 0.5, class_agnostic=True), max_detections=9).scores) == 1


def test_a_part_of_a_thing_is_told_by_the_smaller_area():
    two = [parts(((0, 0, 100, 100), 0.9, 0)), parts(((0, 0, 30, 100), 0.95, 0))]
    assert len(combine(two, NMS, max_detections=9).scores) == 2
    assert combine(two, Matching("nmm", "ios", 0.5), max_detections=9).boxes_xyxy.tolist() == [[0, 0, 100, 100]]


def test_the_best_come_first_with_their_own_masks_and_not_more_than_wanted():
    rows = [((10 * i, 0, 10 * i + 5, 5 + i), score, 0) for i, score in enumerate((0.3, 0.9, 0.5, 0.7))]
    found = combine([parts(*rows[:2], masks=True), parts(*rows[2:], masks=True)], NMS, max_detections=3)
    assert found.scores.tolist() == [0.9, 0.7, 0.5]
    assert [mask.bits.shape[0] for mask in found.masks] == [6, 8, 7]


def test_nothing_found_is_nothing():
    assert len(combine([], NMS, max_detections=9).scores) == 0
    assert combine([parts(), parts()], NMM, max_detections=9).boxes_xyxy.shape == (0, 4)


def test_boxes_of_a_slice_are_moved_to_where_it_lies():
    found = Found(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([0.5]), torch.tensor([7]))
    assert gather(found, (100, 50)).boxes_xyxy.tolist() == [[101, 52, 103, 54]]
