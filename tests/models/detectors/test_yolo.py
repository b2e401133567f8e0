"""YOLO networks against ultralytics' own suppression and masks, and against geometry with known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import ultralytics_offline
from models.detectors import Found, Wanted, make_detector
from models.errors import ModelLoadFailed
from models.networks import yolo
from tests.helpers.coloured_squares import BLUE, RED, draw, yolo_like
from tests.helpers.generated_detectors import as_input, scene, settle

NUM_CLASSES = 5
KINDS = ["yolov8n", "yolo11n", "yolo26n", "yolov10n", "yolo11n-seg", "yolo26n-seg"]


def lively(name: str) -> Any:
    """Build a network whose scores spread over (0, 1)."""
    torch.manual_seed(1)
    network: Any = yolo.build(name, nc=NUM_CLASSES).eval().requires_grad_(False)
    head = network.model[-1]
    settle(network, torch.stack([as_input(scene(seed, (96, 96))) for seed in range(50, 54)]))
    for stem in ("cv3", "one2one_cv3"):
        for branch in getattr(head, stem, None) or ():
            nn.init.normal_(branch[-1].weight, std=1.2 / branch[-1].weight.shape[1] ** 0.5)
            branch[-1].bias.fill_(-2.0)
    return network


def assert_near(found: Found, rows: torch.Tensor, *, pixels: float) -> None:
    assert len(found) == len(rows) > 0
    assert found.class_ids.tolist() == rows[:, 5].int().tolist()
    torch.testing.assert_close(found.scores, rows[:, 4], atol=1e-3, rtol=0)
    torch.testing.assert_close(found.boxes_xyxy, rows[:, :4], atol=pixels, rtol=0)


@pytest.mark.parametrize("nms_free", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_detections_equal_those_of_ultralytics_own_arithmetic(name: str, nms_free: bool) -> None:
    # Masks are compared where a pixel of the picture is one of the input.
    network, picture = lively(name), scene(5, (192, 144) if name.endswith("-seg") else (200, 150))
    if nms_free and not hasattr(network.model[-1], "one2one_cv2"):
        with pytest.raises(ModelLoadFailed, match="no head that needs no suppression"):
            make_detector(network, nms_free=True)
        return
    detector = make_detector(network, input_size_px=192, nms_free=nms_free)
    prepared = detector.prepare(picture)
    nms, ops = (ultralytics_offline.import_module(f"ultralytics.utils.{part}") for part in ("nms", "ops"))
    with torch.inference_mode():
        output = network(prepared.pixels[None].float() / 255)[0]
    boxes = output[0] if detector.has_masks else output
    (expected,) = nms.non_max_suppression(boxes, 0.3, 0.7, max_det=9999, nc=NUM_CLASSES, end2end=nms_free)
    # Generated weights give some boxes that end before they begin; those are no detections of ours.
    expected = expected[(expected[:, 2:4] >= expected[:, :2]).all(1)][:20]
    rows = expected.clone()
    rows[:, :4] = ops.scale_boxes(prepared.pixels.shape[1:], expected[:, :4].clone(), picture.shape)
    wanted = Wanted(0.3, max_detections=20)
    (found,) = detector.detect([prepared], [wanted])
    # ultralytics scales both axes alike, though rounding to whole pixels made them differ.
    assert_near(found, rows, pixels=1.0)
    if detector.has_masks:
        masks = ops.process_mask(
            output[1][0], expected[:, 6:], expected[:, :4], prepared.pixels.shape[1:], upsample=True
        )
        assert_same_masks(found, masks, prepared)
    (unmasked,) = detector.detect([prepared], [replace(wanted, masks=False)])
    assert unmasked.masks is None


def assert_same_masks(found: Found, masks_NHW: torch.Tensor, prepared: Any) -> None:
    """Compare with masks in pixels of the input, looked up at the centre of each pixel of the picture."""
    (width, height), (left, top) = prepared.size_wh, prepared.offset_xy
    rows = ((np.arange(height) + 0.5) * prepared.scale_xy[1] + top).astype(int)
    columns = ((np.arange(width) + 0.5) * prepared.scale_xy[0] + left).astype(int)
    assert found.masks is not None
    differing, total = 0, 0
    for index, mask_HW in enumerate(masks_NHW.numpy() > 0):
        looked_up = mask_HW[np.ix_(rows, columns)]
        drawn, whole = found.masks.draw(index), np.zeros((height, width), dtype=bool)
        (x, y), (h, w) = drawn.corner_xy, drawn.bits.shape
        whole[y : y + h, x : x + w] = drawn.bits
        differing += int((whole != looked_up).sum())
        total += int(looked_up.sum())
    assert total > 100
    assert differing < 0.001 * total


@pytest.mark.parametrize("name", ["yolo11n", "yolo26n-seg"])
def test_pictures_of_one_batch_each_get_what_they_want(name: str) -> None:
    detector = make_detector(lively(name), input_size_px=96)
    pictures = [detector.prepare(scene(seed, (96, 64))) for seed in (1, 2, 3)]
    wanted = [
        Wanted(0.3),
        Wanted(0.2, iou_threshold=0.1, class_agnostic=True),
        Wanted(0.1, classes=(2,), max_detections=2),
    ]
    together = detector.detect(pictures, wanted)
    for prepared, wants, found in zip(pictures, wanted, together, strict=True):
        (alone,) = detector.detect([prepared], [wants])
        assert_near(
            found, torch.cat([alone.boxes_xyxy, alone.scores[:, None], alone.class_ids[:, None]], 1), pixels=0.1
        )
    assert set(together[2].class_ids.tolist()) == {2}
    assert len(together[2]) <= 2


def test_a_transformer_sees_a_square_and_needs_no_suppression() -> None:
    detector = make_detector(yolo.build("rtdetr-l", nc=3).eval(), input_size_px=96)
    prepared = detector.prepare(scene(1, (200, 100)))
    assert prepared.pixels.shape == (3, 96, 96)
    (found,) = detector.detect([prepared], [Wanted(0.0, max_detections=7)])
    assert len(found) == 7
    assert bool((found.boxes_xyxy <= torch.tensor([200, 100, 200, 100])).all())


@pytest.mark.parametrize("size_wh", [(320, 320), (631, 477), (203, 999)])
def test_squares_are_found_where_they_were_drawn(size_wh: tuple[int, int]) -> None:
    red, blue = (20, 30, 90, 120), (size_wh[0] - 80, size_wh[1] - 100, size_wh[0], size_wh[1])
    detector = make_detector(yolo_like(), input_size_px=320)
    picture = np.asarray(draw(size_wh, [(red, RED), (blue, BLUE)]))
    (found,) = detector.detect([detector.prepare(picture)], [Wanted()])
    assert found.class_ids.tolist() == [0, 1]
    torch.testing.assert_close(found.boxes_xyxy, torch.tensor([red, blue]).float(), atol=1.0, rtol=0)


def test_doubles_are_suppressed_as_the_request_says() -> None:
    detector = make_detector(yolo_like(copies=3), input_size_px=96)
    prepared = detector.prepare(np.asarray(draw((96, 96), [((20, 20, 50, 50), RED)])))
    (few,), (many,) = (detector.detect([prepared], [Wanted(iou_threshold=iou)]) for iou in (0.5, 1.0))
    assert (len(few), len(many)) == (1, 3)


@pytest.mark.parametrize("name", ["yolo11n-cls", "yolo11n-pose", "yolo11n-obb"])
def test_networks_that_find_no_upright_boxes_are_refused(name: str) -> None:
    tasks = ultralytics_offline.import_module("ultralytics.nn.tasks")
    kind = {"cls": "ClassificationModel", "pose": "PoseModel", "obb": "OBBModel"}[name.partition("-")[2]]
    network = getattr(tasks, kind)(f"{name}.yaml", verbose=False)
    with pytest.raises(ModelLoadFailed, match="Detect, Segment or RTDETRDecoder"):
        make_detector(network)


def test_a_network_that_is_no_detector_is_refused() -> None:
    with pytest.raises(ModelLoadFailed, match=r"Expected a detection network.* got Linear"):
        make_detector(nn.Linear(1, 1))


def test_numbers_that_are_none_are_told() -> None:
    network = lively("yolo11n")
    network.model[0].conv.weight[:] = torch.nan
    detector = make_detector(network, input_size_px=96)
    (found,) = detector.detect([detector.prepare(scene(1))], [Wanted()])
    assert not found.is_finite
    assert len(found) == 0
