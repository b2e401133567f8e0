"""Explanations through a real worker: every method, where the maps lie, every reason to stop, and refusals."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.attribution import Method, lime, path
from models.catalog import Catalog
from visionpipe.queue import calls, run
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import JobState, Lane
from visionpipe.schemas.requests import ExplanationOptions
from visionpipe.schemas.results import ExplanationResult
from visionpipe.store import open_store
from visionpipe.tasks import build_request, parse_item
from workers import explanation_input
from workers.explanation import ExplanationRuntime
from workers.hosted import HostedModel

from .conftest import Rig, wait_for

NETWORK = """
import torch
from torch import nn

class Red(nn.Module):
    '''Class 0 is how much red there is, class 1 how much blue; nothing else matters.'''

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.mix.bias.fill_(-0.05)
            self.mix.weight.copy_(torch.tensor([[1.0, -0.4, -0.4], [-0.4, -0.4, 1.0]])[:, :, None, None])
        self.relu = nn.ReLU()

    def forward(self, x_NCHW):
        return self.relu(self.mix(x_NCHW)).sum(dim=(2, 3)) / 20

def without_gradient(logits_NK):
    return logits_NK.detach()

def own(picture):
    return torch.zeros(3, 8, 8)
"""
CARD = """
name = "{name}"
tasks = ["classification"]
network = "net:Red"
licence = "CC0-1.0"
labels = ["red", "blue"]
[preprocess]
resize = 48
crop = 32
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
{more}
[serving]
max_batch = 16
[provenance]
origin = "made for a test"
"""


def host(folder: Path, name: str = "red", more: str = "") -> HostedModel:
    (folder / name).mkdir(parents=True)
    (folder / name / "card.toml").write_text(CARD.format(name=name, more=more))
    (folder / name / "net.py").write_text(NETWORK)
    model = HostedModel(Catalog(folder).find(name), device="cpu")
    model.set_precision("fp32")
    return model


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> HostedModel:
    return host(tmp_path_factory.mktemp("explained"))


def scene(size_wh: tuple[int, int] = (120, 90), *, at_xy: tuple[int, int] = (70, 30), side: int = 8) -> Image.Image:
    """A red square on grey, and a blue one at its left."""
    picture = Image.new("RGB", size_wh, (128, 128, 128))
    picture.paste((250, 40, 40), (at_xy[0], at_xy[1], at_xy[0] + side, at_xy[1] + side))
    picture.paste((40, 40, 250), (at_xy[0] - 30, at_xy[1] + 20, at_xy[0] - 30 + side, at_xy[1] + 20 + side))
    return picture


def png(image: Image.Image, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **how)
    return stream.getvalue()


@pytest.fixture
def submit(rig: Rig, red: HostedModel) -> Callable[..., str]:
    """Submits an explanation to a worker that classifies too."""
    runtime = ExplanationRuntime(red)
    runtime.warm_up(1)
    rig.engine.batcher.runtimes["explanation"] = runtime

    def send(image: bytes | None = None, *, extra: dict[str, bytes] | None = None, **fields: Any) -> str:
        data = png(scene()) if image is None else image
        job = f"explain{time.monotonic_ns()}"
        ref = BlobImage(key=f"blob:{job}:0", size_bytes=len(data))
        for key, more in (extra or {}).items():
            open_store(rig.settings, rig.redis).put(key, more, ttl_s=600)
        request = build_request("explanation", model=rig.hosted.card.name, images=[ref], **fields)
        call = calls.submit(
            request, job=job, lane=Lane.INTERACTIVE, client="c1", settings=rig.settings,
            payloads={ref.key: data}, wait_for_worker=True,
        )  # fmt: skip
        run(rig.redis, call)
        rig.engine.accept(job)
        return job

    return send


def outcome(rig: Rig, job: str) -> Any:
    (item,) = [parse_item("explanation", text) for text in rig.ended(job, 60).items]
    return item.result or item.error


def result_of(rig: Rig, job: str) -> ExplanationResult:
    result = outcome(rig, job)
    assert isinstance(result, ExplanationResult), result
    return result.bind(lambda ref: open_store(rig.settings, rig.redis).get(ref.key))


def centre_xy(values_HW: NDArray[Any]) -> tuple[float, float]:
    ys, xs = np.mgrid[: values_HW.shape[0], : values_HW.shape[1]] + 0.5
    weight = np.clip(values_HW, 0, None)
    return float((weight * xs).sum() / weight.sum()), float((weight * ys).sum() / weight.sum())


OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"window_px": 4},
    "lime": {"samples": 300, "superpixels": {"count": 40}},
    "kernel_shap": {"samples": 300, "superpixels": {"count": 40}},
    "smoothgrad": {"samples": 10},
    "gradient_shap": {"samples": 40},
    "grad_cam": {"layer": "relu"},
}


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_marks_what_the_network_looks_at(rig: Rig, submit: Callable[..., str], method: str) -> None:
    result = result_of(rig, submit(options={"method": method, "targets": ["red"], **OPTIONS.get(method, {})}))
    assert (result.method, result.stopped, result.partial) == (method, "finished", False)
    (found,) = result.attributions
    assert (found.target.label, found.target.class_id) == ("red", 0)
    attribution_HW = result.attribution_array()
    assert (attribution_HW.shape, attribution_HW.dtype) == ((90, 120), np.float32)
    assert (attribution_HW[:, :20] == 0).all(), "the crop leaves out what is at the left"
    assert attribution_HW[30:38, 70:78].mean() > 0
    if method != "deconvolution":  # which does not ask what the ReLUs had seen
        assert attribution_HW[30:38, 70:78].mean() > 5 * abs(attribution_HW[:, 85:100].mean())
    overlay = Image.open(io.BytesIO(result.read(found.overlay)))
    assert overlay.width / overlay.height == pytest.approx(120 / 90, abs=0.01)
    assert (result.segmentation is not None) == (method in ("lime", "kernel_shap"))
    assert (found.completeness is not None) == (method in ("integrated_gradients", "kernel_shap", "gradient_shap"))
    assert (found.surrogate_r2 is not None) == (method == "lime")
    assert (found.standard_error is not None) == (method in ("lime", "kernel_shap", "smoothgrad", "gradient_shap"))
    assert result.layer == ("relu" if method == "grad_cam" else None)


EXIF = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@pytest.mark.parametrize("orientation", EXIF)
@pytest.mark.parametrize("size_wh", [(120, 90), (60, 160), (36, 48)])
def test_an_attribution_lies_where_the_evidence_is_in_the_upright_original(
    rig: Rig, submit: Callable[..., str], size_wh: tuple[int, int], orientation: int
) -> None:
    at_xy = (round(size_wh[0] * 0.55), round(size_wh[1] * 0.45))
    side = max(4, min(size_wh) // 8)
    upright = Image.new("RGB", size_wh, (128, 128, 128))
    upright.paste((250, 40, 40), (*at_xy, at_xy[0] + side, at_xy[1] + side))
    turn = EXIF[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = result_of(rig, submit(png(stored, exif=exif), options={"targets": [0], "overlay": False}))
    assert result.image_size_wh == size_wh
    found = result.attribution_array()
    assert found.shape == (size_wh[1], size_wh[0])
    assert centre_xy(found) == pytest.approx((at_xy[0] + side / 2, at_xy[1] + side / 2), abs=0.75)
    assert result.attributions[0].overlay is None


def test_an_overlay_is_as_upright_as_the_picture(rig: Rig, submit: Callable[..., str]) -> None:
    upright = Image.new("RGB", (96, 64), (128, 128, 128))
    upright.paste((250, 250, 250), (60, 4, 92, 24))
    drawn = []
    for orientation in (1, 3, 6):
        turn, exif = EXIF[orientation], Image.Exif()
        exif[0x0112] = orientation
        stored = upright if turn is None else upright.transpose(turn)
        result = result_of(rig, submit(png(stored, exif=exif), options={"targets": [0]}))
        (attribution,) = result.attributions
        drawn.append(Image.open(io.BytesIO(result.read(attribution.overlay))).convert("L"))
    for other in drawn[1:]:
        assert other.size == drawn[0].size
        assert np.abs(np.asarray(other, float) - np.asarray(drawn[0], float)).mean() < 2


def test_attributions_that_would_fill_the_store_are_refused(
    rig: Rig, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation_input, "MAX_VALUES", 96 * 64)
    data = png(Image.new("RGB", (96, 64)))
    assert result_of(rig, submit(data, options={"targets": [0]})).attributions
    error = outcome(rig, submit(data, options={"targets": [0, 1]}))
    assert error.code == "invalid_request"
    assert "2 targets times 6,144 pixels" in error.message


def test_superpixels_of_the_original_carry_their_weights(rig: Rig, submit: Callable[..., str]) -> None:
    options = {"method": "kernel_shap", "targets": ["red", "blue"], "samples": 400, "superpixels": {"count": 30}}
    result = result_of(rig, submit(options=options))
    picture = Image.open(io.BytesIO(result.read(result.segmentation)))
    numbers_HW = np.asarray(picture)
    assert numbers_HW.shape == (90, 120)
    assert numbers_HW.dtype in (np.uint16, np.int32)
    assert (numbers_HW[:, :20] == 0).all()
    tops = []
    for index, found in enumerate(result.attributions):
        assert found.segments is not None
        assert {entry.segment for entry in found.segments} == set(np.unique(numbers_HW)) - {0}
        sizes = [abs(entry.weight) for entry in found.segments]
        assert sizes == sorted(sizes, reverse=True)
        strongest = found.segments[0]
        inside = result.attribution_array(index)[numbers_HW == strongest.segment]
        assert np.median(inside) == pytest.approx(strongest.weight, rel=0.05)
        assert found.completeness is not None
        assert found.completeness.error < 1e-3
        tops.append(strongest.segment)
    assert numbers_HW[34, 74] == tops[0]
    assert numbers_HW[54, 44] == tops[1]
    assert result.evaluations == 1 + 402, "both classes are read from the same evaluations"


def test_the_most_probable_class_is_explained_unless_others_are_asked_for(rig: Rig, submit: Callable[..., str]) -> None:
    red_one = result_of(rig, submit(png(scene(side=14)), options={"method": "saliency"}))
    assert [found.target.label for found in red_one] == ["red"]
    both = result_of(rig, submit(options={"method": "saliency", "targets": [1, "red"]}))
    assert [found.target.label for found in both] == ["blue", "red"]
    assert sum(found.target.score for found in both) == pytest.approx(1, abs=1e-4)


def test_a_class_that_is_asked_for_twice_is_explained_once(rig: Rig, submit: Callable[..., str]) -> None:
    result = result_of(rig, submit(options={"method": "saliency", "targets": [1, "red", "blue", 1]}))
    assert [found.target.label for found in result] == ["blue", "red"]


def test_gradients_that_do_not_add_up_as_promised_say_so(
    rig: Rig, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path, "MAX_ERROR", 0.0)
    monkeypatch.setattr(path, "MAX_STEPS", 32)
    result = result_of(rig, submit(options={"targets": [0]}))
    note = result.attributions[0].note
    assert note is not None
    assert "after 32 points, above 0%" in note
    assert note in result.summary()
    asked = result_of(rig, submit(options={"targets": [0], "steps": 32}))
    assert asked.attributions[0].note is None


@pytest.mark.parametrize("baseline", ["black", "gray", "white", "blur", "noise"])
def test_every_baseline_gives_complete_gradients(rig: Rig, submit: Callable[..., str], baseline: str) -> None:
    result = result_of(rig, submit(options={"baseline": baseline, "targets": [0]}))
    completeness = result.attributions[0].completeness
    assert completeness is not None
    assert completeness.error <= 0.01
    assert abs(completeness.output_difference) > 0.01


def test_a_picture_can_be_the_baseline(rig: Rig, submit: Callable[..., str]) -> None:
    data = png(scene())
    reference = BlobImage(key="blob:baseline", size_bytes=len(data)).model_dump(mode="json")
    options = {"baseline": "image", "baseline_image": reference, "targets": [0]}
    result = result_of(rig, submit(extra={"blob:baseline": data}, options=options))
    completeness = result.attributions[0].completeness
    assert completeness is not None
    assert completeness.output_difference == 0
    assert np.abs(result.attribution_array()).max() == 0
    missing = {**options, "baseline_image": {**reference, "key": "blob:nowhere"}}
    assert outcome(rig, submit(options=missing)).code == "image_expired"


LONG = {"method": "lime", "samples": 200_000, "superpixels": {"count": 20}, "targets": ["red", "blue"]}


def test_while_it_perturbs_others_are_answered_and_cancelling_gives_the_best(
    rig: Rig, submit: Callable[..., str]
) -> None:
    rig.keeper.start()
    job = submit(options=LONG)
    progress = wait_for(lambda: (told := rig.envelope(job).record.progress) and told.done > 50 and told)
    assert progress.total == 200_000
    assert progress.eta_s > 0
    assert "lime of 'red'" in progress.note
    assert [rig.answers(rig.submit([level])) for level in range(5)] == [[level] for level in range(5)]
    assert not rig.envelope(job).record.state.ended
    run(rig.redis, calls.cancel(job))
    result = result_of(rig, job)
    assert (result.stopped, result.partial) == ("cancelled", True)
    assert 50 < result.evaluations < 200_000
    assert [found.target.label for found in result] == ["red", "blue"], "the second shares what was evaluated"
    assert result.attributions[0].standard_error is not None
    assert result.attribution_array()[34, 74] > 0


def test_a_deadline_gives_the_best_so_far_and_says_so(rig: Rig, submit: Callable[..., str]) -> None:
    rig.keeper.start()
    job = submit(options=LONG, deadline_s=1.5)
    result = result_of(rig, job)
    assert (result.stopped, result.partial) == ("deadline", True)
    assert rig.envelope(job).record.state is JobState.DONE


@pytest.mark.parametrize("method", ["smoothgrad", "lime", "integrated_gradients"])
def test_a_time_budget_is_shared_by_the_classes(rig: Rig, submit: Callable[..., str], method: str) -> None:
    options = {
        "method": method, "targets": [0, 1], "time_budget_s": 0.4, "steps": 100_000, "samples": 200_000,
        "superpixels": {"count": 20},
    }  # fmt: skip
    started = time.monotonic()
    result = result_of(rig, submit(options=options))
    assert time.monotonic() - started < 15
    assert (result.stopped, result.partial) == ("time_budget", True)
    assert len(result) == 2
    assert result.attribution_array(0)[34, 74] > 0
    assert result.attribution_array(1)[54, 44] > 0


def test_a_time_budget_goes_where_the_work_is(rig: Rig, submit: Callable[..., str]) -> None:
    options = {
        "method": "lime", "targets": [0], "time_budget_s": 2.0, "samples": 200_000, "curves": True,
        "superpixels": {"count": 20}, "overlay": False, "curve_steps": 5,
    }  # fmt: skip
    runtime: Any = rig.engine.batcher.runtimes["explanation"]
    spent: list[float] = []
    attribute = runtime._attribute

    def watched(run: Any, *rest: Any) -> Any:
        before_s = run.spent_s
        yield from attribute(run, *rest)
        spent.append(run.spent_s - before_s)

    runtime._attribute = watched
    result = result_of(rig, submit(options=options))
    assert result.stopped == "time_budget"
    assert spent[0] > 1.4, "the curves need next to nothing"
    assert result.attributions[0].curves is not None


def test_surrogates_are_fitted_off_the_device_thread(
    rig: Rig, submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, list[int]] = {"fit": [], "inputs": []}
    fit, inputs = lime.fit, lime.Lime.inputs

    def fitted(*given: Any) -> Any:
        threads["fit"].append(threading.get_ident())
        return fit(*given)

    def shown(*given: Any) -> Any:
        threads["inputs"].append(threading.get_ident())
        return inputs(*given)

    monkeypatch.setattr(lime, "fit", fitted)
    monkeypatch.setattr(lime.Lime, "inputs", shown)
    options = {
        "method": "lime", "targets": [0], "samples": 64, "superpixels": {"count": 12}, "curves": True,
        "sanity_check": {"max_depths": 1},
    }  # fmt: skip
    result = result_of(rig, submit(options=options))
    assert result.attributions[0].sanity is not None
    assert len(threads["fit"]) == 2
    assert len(set(threads["inputs"])) == 1
    assert not set(threads["fit"]) & set(threads["inputs"])


def test_the_cost_is_told_before_the_first_step(rig: Rig, submit: Callable[..., str], red: HostedModel) -> None:
    runtime: Any = rig.engine.batcher.runtimes["explanation"]
    assert set(runtime.s_per_value) == {True, False}
    rig.keeper.start()
    job = submit(options={"method": "lime", "samples": 5000})
    progress = wait_for(lambda: rig.envelope(job).record.progress)
    assert progress.total == 5000
    assert progress.eta_s > 0


BAD: list[tuple[dict[str, Any], str]] = [
    ({"targets": ["green"]}, "Expected a label of 'red'"),
    ({"targets": [2]}, "from 0 to 1"),
    ({"method": "grad_cam", "layer": "rel"}, "Close names: relu"),
    ({"method": "occlusion", "window_px": 33}, "at most 32 pixels, got 33"),
    ({"method": "lime", "samples": 1}, "Expected at least"),
    ({"method": "kernel_shap", "samples": 1_000_000, "superpixels": {"count": 500}}, "would not fit into memory"),
]


@pytest.mark.parametrize(("options", "says"), BAD, ids=["label", "index", "layer", "window", "few", "memory"])
def test_what_cannot_be_done_is_an_invalid_request(
    rig: Rig, submit: Callable[..., str], options: dict[str, Any], says: str
) -> None:
    error = outcome(rig, submit(options=options))
    assert error.code == "invalid_request"
    assert says in error.message


def test_a_model_with_a_preprocess_hook_is_refused_in_words(
    rig: Rig, submit: Callable[..., str], tmp_path: Path
) -> None:
    hooked = host(tmp_path, "hooked", '[hooks]\npreprocess = "net:own"')
    rig.engine.batcher.runtimes["explanation"] = ExplanationRuntime(hooked)
    error = outcome(rig, submit())
    assert error.code == "invalid_request"
    assert "preprocess hook" in error.message


def test_a_network_without_gradients_is_explained_by_perturbing_alone(
    rig: Rig, submit: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = ExplanationRuntime(host(tmp_path, "cut", '[hooks]\npostprocess = "net:without_gradient"'))
    with caplog.at_level("WARNING", logger="visionpipe"):
        runtime.warm_up(1)
    assert "perturbation only" in caplog.text
    rig.engine.batcher.runtimes["explanation"] = runtime
    assert "Use occlusion, lime or kernel_shap" in outcome(rig, submit()).message
    result = result_of(rig, submit(options={"method": "occlusion", "targets": [0]}))
    assert result.attribution_array()[34, 74] > 0


def test_the_same_seed_gives_the_same_answer(rig: Rig, submit: Callable[..., str]) -> None:
    options = {"method": "lime", "samples": 64, "seed": 7, "superpixels": {"count": 20}}
    first, second = (result_of(rig, submit(options=options)).attribution_array() for _ in range(2))
    np.testing.assert_allclose(first, second, atol=1e-5)
    other = result_of(rig, submit(options={**options, "seed": 8})).attribution_array()
    assert not np.allclose(first, other, atol=1e-4)


def test_options_start_from_the_methods_own_numbers() -> None:
    options = ExplanationOptions()
    assert options.noise is None
    assert options.method == "integrated_gradients"


def test_reduced_precision_answers_perturbations_and_gradients_stay_exact(red: HostedModel, tmp_path: Path) -> None:
    quick = host(tmp_path)
    quick.set_precision("bf16")
    runtime = ExplanationRuntime(quick)
    assert runtime.parity("bf16")
    assert next(runtime.classifier.parameters()).dtype == torch.float32
