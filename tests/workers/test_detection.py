"""Detection through its runtime, with networks that find coloured rectangles exactly."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.catalog import Catalog
from models.images import decode
from models.networks import yolo
from tests.helpers.coloured_squares import BLUE, RED, draw
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.queue import Claim
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import JobState, Lane, Progress
from visionpipe.schemas.results import DetectionResult
from visionpipe.tasks import build_request
from workers.detection import DetectionRuntime
from workers.hosted import HostedModel
from workers.outcome import describe
from workers.pace import Pace
from workers.work import HeldJob, Work

CARD = """
name = "{name}"
tasks = ["detection"]
network = "tests.helpers.coloured_squares:{builder}"
labels = {labels}
licence = "CC0-1.0"
{more}
[provenance]
origin = "made for a test"
"""
BUILDERS = {"rcnn": "two_stage", "mask": "two_stage", "yolo": "yolo_like", "seg": "yolo_like"}
MORE = {
    "rcnn": "[arguments]\nmin_size = 240\nmax_size = 320",
    "mask": "[arguments]\nmasks = true\nmin_size = 240\nmax_size = 320",
    "yolo": "[detection]\ninput_size_px = 320",
    "seg": '[arguments]\nname = "yolo11n-seg"\n[detection]\ninput_size_px = 320',
}


@pytest.fixture(scope="module")
def make_runtime(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DetectionRuntime]:
    folder = tmp_path_factory.mktemp("models")
    made: dict[tuple[str, ...], DetectionRuntime] = {}

    def make(name: str, *, labels: Sequence[str] | None = None, more: str | None = None) -> DetectionRuntime:
        key = (name, str(labels), str(more))
        if key not in made:
            names = labels or (["red", "blue"] if name in ("yolo", "seg") else ["background", "red", "blue"])
            model = f"{name}{len(list(folder.iterdir()))}"
            (folder / model).mkdir()
            (folder / model / "card.toml").write_text(
                CARD.format(name=model, builder=BUILDERS[name], labels=list(names), more=more or MORE[name])
            )
            hosted = HostedModel(Catalog(folder).find(model), device="cpu")
            runtime = DetectionRuntime(hosted)
            hosted.set_precision("fp32")
            made[key] = runtime
        return made[key]

    return make


def work_of(pictures: Sequence[bytes | Image.Image], **options: Any) -> list[Work]:
    """One job's images, read."""
    blobs = [BlobImage(key=f"blob:{index}", size_bytes=1) for index in range(len(pictures))]
    request = build_request("detection", model="m", images=blobs, options=options)
    claim = Claim("j", "token", b"", Lane.INTERACTIVE, 0, 0.0, None, frozenset())
    job = HeldJob(claim, request, open_items=len(pictures))
    store: Any = SimpleNamespace()
    works = [Work(job, index, None, lambda _: pytest.fail("reads nothing"), store) for index in range(len(pictures))]
    for work, picture in zip(works, pictures, strict=True):
        work.image = decode(picture if isinstance(picture, bytes) else png(picture), max_bytes=10**8, max_pixels=10**9)
        work.size_wh = work.image.size_wh
    return works


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def answer(runtime: DetectionRuntime, works: list[Work]) -> list[DetectionResult]:
    """Prepare and run as the worker does: equal keys together, long work step by step."""
    for work in works:
        runtime.prepare(work)
    found: dict[int, Any] = {work.index: run_steps(runtime, work)[0] for work in works if work.is_long}
    for key in {work.key for work in works if not work.is_long}:
        batch = [work for work in works if not work.is_long and work.key == key]
        for work, outcome in zip(batch, runtime.results(runtime.forward(batch), batch), strict=True):
            found[work.index] = outcome() if callable(outcome) else outcome
    return [found[work.index] for work in works]


def run_steps(runtime: DetectionRuntime, work: Work, *, stop_after: int | None = None) -> tuple[Any, list[Progress]]:
    told: list[Progress] = []
    steps = runtime.steps(work)
    while True:
        if stop_after is not None and len(told) == stop_after:
            work.job.stopped = JobState.CANCELLED
        try:
            told.append(next(steps))
        except StopIteration as end:
            outcome = end.value
            return (outcome() if callable(outcome) else outcome), told


def boxes(result: DetectionResult) -> dict[str, list[tuple[float, ...]]]:
    by_label: dict[str, list[tuple[float, ...]]] = {}
    for found in result.detections:
        by_label.setdefault(found.label, []).append(found.box_xyxy)
    return {label: sorted(found) for label, found in by_label.items()}


def near(expected: Sequence[float]) -> Any:
    return pytest.approx(expected, abs=1.0)


SQUARE = (40, 60, 140, 100)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_boxes_are_those_of_the_upright_picture(make_runtime: Any, name: str, orientation: int) -> None:
    upright = draw((320, 240), [(SQUARE, RED)])
    stored = np.asarray(upright)
    undo: dict[int, Callable[[Any], Any]] = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(undo[orientation](stored))).save(
        stream, "JPEG", quality=100, subsampling=0, exif=exif
    )
    (result,) = answer(make_runtime(name), work_of([stream.getvalue()]))
    assert result.image_size_wh == (320, 240)
    assert boxes(result) == {"red": [near(SQUARE)]}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("size_wh", [(1201, 333), (97, 641), (2000, 1500)])
def test_boxes_come_back_through_resizing(make_runtime: Any, name: str, size_wh: tuple[int, int]) -> None:
    red = (size_wh[0] // 5, size_wh[1] // 5, size_wh[0] // 2, size_wh[1] // 2)
    blue = (size_wh[0] * 3 // 5, size_wh[1] * 3 // 5, size_wh[0], size_wh[1])
    # At half the size, or more: where the network sees less than every second pixel, nobody knows the edge to one.
    works = work_of([draw(size_wh, [(red, RED), (blue, BLUE)])], input_size_px=1024)
    (result,) = answer(make_runtime(name), works)
    assert boxes(result) == {"red": [near(red)], "blue": [near(blue)]}


SMALL = [(30 + 190 * i, 40 + 150 * j, 70 + 190 * i, 90 + 150 * j) for i in range(5) for j in range(5)]


@pytest.mark.parametrize("merge", ["nms", "nmm"])
@pytest.mark.parametrize("name", BUILDERS)
def test_boxes_come_back_from_slices_once_each(make_runtime: Any, name: str, merge: str) -> None:
    picture = draw((1000, 800), [(box, RED if index % 2 else BLUE) for index, box in enumerate(SMALL)])
    (work,) = work_of([picture], slicing={"size_wh": [320, 240], "overlap": 0.3, "merge": merge, "match_metric": "ios"})
    runtime = make_runtime(name)
    runtime.prepare(work)
    assert work.is_long
    estimate = runtime.estimate(work)
    result, told = run_steps(runtime, work)
    assert sum(len(found) for found in boxes(result).values()) == len(SMALL)
    assert boxes(result) == {
        "red": [near(box) for box in sorted(SMALL[1::2])],
        "blue": [near(box) for box in sorted(SMALL[::2])],
    }
    assert result.num_slices == estimate.total == told[-1].total == told[-1].done > 12
    assert not result.partial


def test_something_larger_than_a_slice_is_found_in_the_whole_image(make_runtime: Any) -> None:
    large = (100, 100, 900, 700)
    sliced = {"size_wh": [320, 320], "match_metric": "ios"}
    for whole_image, expected in ((True, 1), (False, 0)):
        works = work_of(
            [draw((1000, 800), [(large, RED)])], slicing=sliced | {"whole_image": whole_image, "merge": "nmm"}
        )
        (result,) = answer(make_runtime("yolo"), works)
        assert [found.box_xyxy == near(large) for found in result.detections].count(True) >= expected


def test_joined_slices_join_their_boxes_and_masks(make_runtime: Any) -> None:
    long_one = (100, 20, 500, 80)
    options = {"size_wh": [400, 100], "overlap": 0.5, "whole_image": False, "merge": "nmm", "match_threshold": 0.3}
    (result,) = answer(make_runtime("seg"), work_of([draw((600, 100), [(long_one, RED)])], slicing=options))
    assert boxes(result)["red"][0] == near(long_one)
    mask = result.detections[0].mask
    assert mask is not None
    assert mask.area() == pytest.approx(400 * 60, rel=0.05)


def test_an_image_that_fits_into_a_slice_is_looked_at_once(make_runtime: Any) -> None:
    (work,) = work_of([draw((320, 240), [(SQUARE, RED)])], slicing={"size_wh": [640, 640]})
    (result,) = answer(make_runtime("yolo"), [work])
    assert not work.is_long
    assert (result.num_slices, boxes(result)) == (1, {"red": [near(SQUARE)]})


@pytest.mark.parametrize("steps", [0, 2])
def test_stopped_slices_give_what_was_found_so_far(
    make_runtime: Any, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    runtime = make_runtime("yolo")
    monkeypatch.setattr(runtime, "_pace", Pace(most=1))
    (work,) = work_of([draw((1000, 800), [(SMALL[0], RED)])], slicing={"size_wh": [320, 240], "whole_image": False})
    runtime.prepare(work)
    result, told = run_steps(runtime, work, stop_after=steps)
    assert result.partial
    assert [progress.done for progress in told] == list(range(1, steps + 1))
    assert result.num_slices == max(steps, 1)
    assert boxes(result) == ({"red": [near(SMALL[0])]} if steps else {})


@pytest.mark.parametrize("name", ["mask", "seg"])
def test_masks_are_run_lengths_in_pixels_of_the_image(make_runtime: Any, name: str) -> None:
    (with_masks,) = answer(make_runtime(name), work_of([draw((320, 240), [(SQUARE, RED)])]))
    (found,) = with_masks.detections
    assert found.mask is not None
    assert found.mask.size_hw == (240, 320)
    expected = np.zeros((240, 320), dtype=bool)
    expected[60:100, 40 : 90 if name == "mask" else 140] = True
    assert (found.mask.to_array() != expected).sum() <= 0.06 * expected.sum()
    (without,) = answer(make_runtime(name), work_of([draw((320, 240), [(SQUARE, RED)])], masks=False))
    assert without.detections[0].mask is None


PAIR = draw((320, 240), [(SQUARE, RED), ((200, 20, 300, 200), BLUE)])


@pytest.mark.parametrize("name", BUILDERS)
def test_options_choose_what_is_told(make_runtime: Any, name: str) -> None:
    runtime = make_runtime(name)

    def found(**options: Any) -> list[str]:
        (result,) = answer(runtime, work_of([PAIR], **options))
        return [detection.label for detection in result.detections]

    assert found() == ["red", "blue"]
    assert found(classes=["blue"]) == ["blue"]
    assert found(classes=[0 if name in ("yolo", "seg") else 1]) == ["red"]
    assert found(max_detections=1) == ["red"]
    assert found(score_threshold=0.999) == []
    assert found(input_size_px=96) == ["red", "blue"]


def test_classes_may_be_told_to_suppress_one_another(make_runtime: Any) -> None:
    nested = draw((320, 240), [(SQUARE, RED)])
    runtime, whole = make_runtime("rcnn"), [0.0, 0.0, 320.0, 240.0]
    assert runtime.detector.takes_proposals
    # The colour of the whole image is neither, so both classes get a little score.
    for agnostic, expected in ((False, {"red", "blue"}), (True, {"red"})):
        works = work_of([nested], proposals=[[whole]], score_threshold=0.0, class_agnostic_nms=agnostic)
        assert {found.label for found in answer(runtime, works)[0].detections} == expected


@pytest.mark.parametrize("name", ["rcnn", "mask"])
def test_proposed_boxes_are_scored_and_say_which_they_are(make_runtime: Any, name: str) -> None:
    proposals = [[[0, 0, 30, 30], [200, 20, 300, 200], list(SQUARE)], [[200, 20, 300, 200]], []]
    asked = [[[float(side) for side in box] for box in boxes] for boxes in proposals]
    first, second, third = answer(make_runtime(name), work_of([PAIR] * 3, proposals=asked))
    assert [(found.label, found.proposal) for found in first.detections] == [("red", 2), ("blue", 1)]
    assert [(found.label, found.proposal) for found in second.detections] == [("blue", 0)]
    assert third.detections == []
    assert first.detections[0].box_xyxy == near(SQUARE)


def test_boxes_that_the_network_found_are_nobodys_proposal(make_runtime: Any) -> None:
    (result,) = answer(make_runtime("rcnn"), work_of([PAIR]))
    assert {found.proposal for found in result.detections} == {None}


BAD = {
    "a class that is not there": ("yolo", {"classes": ["green"]}, "Expected a label of .*'green'.* red, blue"),
    "proposals for a network without a head for them": (
        "yolo",
        {"proposals": [[[0.0, 0.0, 9.0, 9.0]]]},
        "Two-stage networks have: Faster R-CNN, Mask R-CNN",
    ),
    "a proposal outside": ("rcnn", {"proposals": [[[0.0, 0.0, 9.0, 9.0], [900.0, 0.0, 950.0, 9.0]]]}, "at index 1"),
}


@pytest.mark.parametrize(("name", "options", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_done_is_refused(make_runtime: Any, name: str, options: Any, message: str) -> None:
    (work,) = work_of([PAIR], **options)
    with pytest.raises(InvalidRequestError, match=message):
        make_runtime(name).prepare(work)


def test_a_size_that_the_network_cannot_take_is_an_invalid_request(tmp_path: Path) -> None:
    (tmp_path / "ssd").mkdir()
    (tmp_path / "ssd" / "card.toml").write_text(
        'name = "ssd"\ntasks = ["detection"]\nnetwork = "torchvision:ssdlite320_mobilenet_v3_large"\n'
        'licence = "none"\n[provenance]\norigin = "untrained"\n'
    )
    runtime = DetectionRuntime(HostedModel(Catalog(tmp_path).find("ssd"), device="cpu"))
    for options in ({}, {"slicing": {"size_wh": [100, 100]}}):
        (work,) = work_of([PAIR], input_size_px=640, **options)
        with pytest.raises(Exception, match="this network sees that size only") as caught:
            runtime.prepare(work)
        assert describe(caught.value).code == "invalid_request"


def test_images_of_one_batch_keep_their_own_options(make_runtime: Any) -> None:
    runtime = make_runtime("yolo")
    works = [work_of([PAIR], **options)[0] for options in ({}, {"classes": ["red"]}, {"score_threshold": 0.8})]
    for index, work in enumerate(works):
        work.index = index
    assert [[found.label for found in result.detections] for result in answer(runtime, works)] == [
        ["red", "blue"], ["red"], ["red"],
    ]  # fmt: skip


def test_labels_must_fit_the_network(make_runtime: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"Expected 3 labels .* background as class 0.* got 2"):
        make_runtime("rcnn", labels=["red", "blue"])


def test_hooks_are_refused(make_runtime: Any) -> None:
    hooks = MORE["yolo"] + '\n[hooks]\npreprocess = "tests.helpers.coloured_squares:draw"'
    with pytest.raises(ModelLoadError, match="Expected no hooks"):
        make_runtime("yolo", more=hooks)


@pytest.mark.parametrize("name", ["rcnn", "yolo"])
def test_many_boxes_are_left_to_the_finishing_threads(make_runtime: Any, name: str) -> None:
    dots = [((8 * i, 8 * j, 8 * i + 5, 8 * j + 5), RED) for i in range(12) for j in range(8)]
    (work,) = work_of([draw((96, 64), dots)], input_size_px=320)
    runtime = make_runtime(name)
    runtime.prepare(work)
    (outcome,) = runtime.results(runtime.forward([work]), [work])
    assert callable(outcome)
    assert len(outcome().detections) == 96


def test_a_network_that_gives_no_numbers_is_told(make_runtime: Any) -> None:
    runtime = make_runtime("rcnn", more="[arguments]\nmin_size = 64")
    (work,) = work_of([PAIR])
    runtime.prepare(work)
    runtime.detector.heads.box_predictor.cls_score.bias.fill_(torch.nan)
    (outcome,) = runtime.results(runtime.forward([work]), [work])
    assert isinstance(outcome, ArithmeticError)


def test_a_warm_up_measures_what_slices_will_cost(make_runtime: Any) -> None:
    runtime = make_runtime("yolo")
    runtime.warm_up(2)
    (work,) = work_of([draw((1000, 800), [])], slicing={})
    runtime.prepare(work)
    estimate = runtime.estimate(work)
    assert estimate is not None
    assert estimate.eta_s is not None
    assert estimate.eta_s > 0
    assert estimate.total == 5


def test_a_users_checkpoint_brings_the_names_of_its_classes(tmp_path: Path) -> None:
    network = yolo.build("yolov8n", nc=2)
    network.names = {0: "cat", 1: "dog"}  # type: ignore[assignment]
    (tmp_path / "pets").mkdir()
    torch.save({"model": network.half(), "train_args": {"task": "detect"}}, tmp_path / "pets" / "best.pt")
    (tmp_path / "pets" / "card.toml").write_text(
        'name = "pets"\ntasks = ["detection"]\nnetwork = "ultralytics:checkpoint"\nlicence = "mine"\n'
        '[weights]\nfile = "best.pt"\n[detection]\ninput_size_px = 64\n[provenance]\norigin = "a test"\n'
    )
    runtime = DetectionRuntime(HostedModel(Catalog(tmp_path).find("pets"), device="cpu"))
    (result,) = answer(
        runtime, work_of([PAIR], classes=["dog"], score_threshold=0.0, max_detections=3, iou_threshold=1.0)
    )
    assert {found.label for found in result.detections} <= {"dog"}
    with pytest.raises(InvalidRequestError, match="cat, dog"):
        runtime.prepare(work_of([PAIR], classes=["cow"])[0])
