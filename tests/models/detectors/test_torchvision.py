"""Every detection network of torchvision, with generated weights, against torchvision's own call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from models.detectors import Found, Wanted, make_detector
from models.detectors.base import Detector
from models.errors import UnsupportedOption
from tests.helpers.generated_detectors import NAMES, NUM_CLASSES, as_input, generate, scene

MAX_DELTA_SCORE, MAX_DELTA_PX = 1e-3, 0.05
"""Convolutions in channels_last add up in another order."""


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> Any:
    return generate(request.param)


def own_call(network: Any, picture: np.ndarray, **thresholds: float) -> dict[str, torch.Tensor]:
    """torchvision's own answer, with thresholds of its own attributes changed."""
    holder = getattr(network, "roi_heads", network)
    kept = {name: getattr(holder, name) for name in thresholds}
    try:
        for name, value in thresholds.items():
            setattr(holder, name, value)
        with torch.inference_mode():
            return network([as_input(picture)])[0]
    finally:
        for name, value in kept.items():
            setattr(holder, name, value)


def assert_same(found: Found, own: dict[str, torch.Tensor]) -> None:
    """Every detection of one has its twin in the other; equal scores may come in another order."""
    assert len(found) == len(own["scores"]) > 0
    same = (
        (found.class_ids[:, None] == own["labels"])
        & ((found.scores[:, None] - own["scores"]).abs() < MAX_DELTA_SCORE)
        & ((found.boxes_xyxy[:, None] - own["boxes"]).abs().amax(2) < MAX_DELTA_PX)
    )
    assert bool(same.any(0).all())
    assert bool(same.any(1).all())


def detect(detector: Detector, pictures: list[np.ndarray], wanted: list[Wanted]) -> list[Found]:
    return detector.detect([detector.prepare(picture) for picture in pictures], wanted)


def test_detections_equal_those_of_torchvisions_own_call(network: Any) -> None:
    detector, picture = make_detector(network), scene(1)
    own = own_call(network, picture)
    gap = widest_gap(own["scores"])
    wanted = [detector.own_wanted(), replace(detector.own_wanted(), score_threshold=gap)]
    whole, fewer = detect(detector, [picture, picture], wanted)
    assert_same(whole, own)
    assert_same(fewer, own_call(network, picture, score_thresh=gap))
    if "masks" in own:
        assert_same_masks(whole, own)


def test_pictures_of_one_batch_may_want_different_suppression(network: Any) -> None:
    detector, own = make_detector(network), make_detector(network).own_wanted()
    wanted = [replace(own, iou_threshold=0.15), replace(own, class_agnostic=True, max_detections=5), own]
    loose, agnostic, plain = detect(detector, [scene(2)] * 3, wanted)
    assert_same(loose, own_call(network, scene(2), nms_thresh=0.15))
    assert 0 < len(agnostic) <= min(5, len(plain))
    assert agnostic.boxes_xyxy[0].tolist() == plain.boxes_xyxy[0].tolist()
    # Boxes without an area, which FCOS may give, have no overlap.
    overlaps = box_iou(agnostic.boxes_xyxy, agnostic.boxes_xyxy).fill_diagonal_(0).nan_to_num(0)
    assert float(overlaps.max()) <= 0.6


def widest_gap(scores: torch.Tensor) -> float:
    """A threshold that no score is near to."""
    gaps = scores[:-1] - scores[1:]
    return float(scores[gaps.argmax()] + scores[gaps.argmax() + 1]) / 2


def assert_same_masks(found: Found, own: dict[str, torch.Tensor]) -> None:
    """Each detection's mask is that of its twin: the nearest box of its class, whatever the order of equal scores."""
    assert found.masks is not None
    own_N1HW = own["masks"]
    apart = (found.boxes_xyxy[:, None] - own["boxes"]).abs().amax(2) + (found.scores[:, None] - own["scores"]).abs()
    twins = (apart + 1e6 * (found.class_ids[:, None] != own["labels"])).argmin(1).tolist()
    height, width = own_N1HW.shape[2:]
    differing = 0
    for index in range(len(found)):
        drawn = found.masks.draw(index)
        whole = np.zeros((height, width), dtype=bool)
        (left, top), (rows, columns) = drawn.corner_xy, drawn.bits.shape
        whole[top : top + rows, left : left + columns] = drawn.bits
        differing += int((whole != (own_N1HW[twins[index], 0].numpy() > 0.5)).sum())
    assert differing <= 1e-3 * int((own_N1HW > 0.5).sum())


def test_a_detector_leaves_its_network_as_it_was(network: Any) -> None:
    def attributes() -> list[Any]:
        return [network.transform, *(vars(holder).get(name) for holder in holders for name in names)]

    names, holders = (
        ("score_thresh", "nms_thresh", "detections_per_img"),
        (network, getattr(network, "roi_heads", network)),
    )
    before = attributes()
    assert any(isinstance(value, float) for value in before)
    detector = make_detector(network)
    with pytest.raises(IndexError):
        detector.detect([], [Wanted(0.9, iou_threshold=0.1, max_detections=1)])
    assert attributes() == before


def test_a_detector_knows_how_many_classes_its_network_has(network: Any) -> None:
    assert make_detector(network).num_classes in (NUM_CLASSES, 2)


def test_only_networks_without_a_fixed_size_take_another_size(network: Any) -> None:
    detector, picture = make_detector(network), scene(1)
    fixed = network.transform.fixed_size
    if fixed is None:
        assert max(detector.prepare(picture, 64).pixels.shape[1:]) == 64
        return
    assert detector.prepare(picture, max(fixed)).pixels.shape[1:] == detector.prepare(picture).pixels.shape[1:]
    with pytest.raises(UnsupportedOption, match=f"to be {max(fixed)} or unset, got 64"):
        detector.prepare(picture, 64)


@pytest.mark.parametrize("kind", ["proposals of its own", "masks"])
def test_proposals_of_the_network_itself_give_its_own_detections(kind: str) -> None:
    name = "maskrcnn_resnet50_fpn" if kind == "masks" else "fasterrcnn_mobilenet_v3_large_320_fpn"
    network, picture = generate(name), scene(1)
    detector = make_detector(network)
    seen: list[torch.Tensor] = []
    hook = network.rpn.register_forward_hook(lambda *call: seen.append(call[2][0][0]))
    (own,) = detect(detector, [picture], [detector.own_wanted()])
    hook.remove()
    prepared = detector.prepare(picture)
    prepared.proposals_xyxy = seen[0] / torch.tensor(prepared.scale_xy * 2)
    (found,) = detector.detect([prepared], [detector.own_wanted()])
    assert found.class_ids.tolist() == own.class_ids.tolist()
    torch.testing.assert_close(found.boxes_xyxy, own.boxes_xyxy, atol=MAX_DELTA_PX, rtol=0)
    assert found.proposals is not None
    assert int(found.proposals.max()) < len(seen[0])
    assert (found.masks is not None) == (kind == "masks")
