"""Feature visualization on a tiny network: every method and option, and its manners as a long job and as a batch."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.catalog import Catalog
from models.errors import UnknownLayer, UnsupportedOption
from models.images import Decoded
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.queue import calls, run
from visionpipe.schemas.images import ArtifactRef, BlobImage
from visionpipe.schemas.jobs import Lane
from visionpipe.schemas.requests import FeatureVisualizationOptions
from visionpipe.schemas.results import FeatureVisualizationResult
from visionpipe.tasks import build_request, parse_item
from workers.feature_visualization import FeatureVisualizationRuntime
from workers.hosted import HostedModel
from workers.pace import TARGET_STEP_S

from .conftest import Rig, wait_for, write_model

NETWORK = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, activation="ReLU"):
        super().__init__()
        torch.manual_seed(1)
        act = getattr(nn, activation)
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), act(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), act(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x_NCHW):
        return self.head(self.body(x_NCHW).flatten(1))

def own(image):
    return torch.zeros(3, 32, 32)
"""

CARD = """
name = "{name}"
tasks = ["classification"]
network = "net:Small"
licence = "CC0-1.0"
[preprocess]
resize = [32, 32]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[serving]
max_batch = 8
[provenance]
origin = "made for a test"
"""


def host(folder: Path, card: str = CARD) -> HostedModel:
    write_model(folder, "small", card=card, network=NETWORK)
    model = HostedModel(Catalog(folder).find("small"), device="cpu")
    model.set_precision("fp32")
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> HostedModel:
    return host(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def runtime(small: HostedModel) -> FeatureVisualizationRuntime:
    made = FeatureVisualizationRuntime(small)
    made.warm_up(2)
    return made


def photo(seed: int = 0, size_wh: tuple[int, int] = (96, 64)) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 255, size=(8, 12, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size_wh, Image.Resampling.BICUBIC)


class Kept(dict[str, bytes]):
    """Stands in for the store of artifacts."""

    def __call__(self, data: bytes, media_type: str) -> ArtifactRef:
        ref = ArtifactRef(key=f"artifact:{len(self):064x}", media_type=media_type, size_bytes=len(data))
        self[ref.key] = data
        return ref

    def open(self, ref: ArtifactRef | None) -> Image.Image:
        assert ref is not None
        return Image.open(io.BytesIO(self[ref.key]))


def make_work(image: Image.Image | None = None, **options: Any) -> Any:
    asked = FeatureVisualizationOptions(**options)
    return SimpleNamespace(
        request=SimpleNamespace(options=asked, task="feature_visualization"),
        image=None if image is None else Decoded(image),
        size_wh=None if image is None else image.size,
        keep=(kept := Kept()),
        try_keep=kept,
        prepared=None,
        num_pixels=0,
        is_long=asked.method != "activations",
        stopping=False,
        stop_reason=None,
    )


def finish(
    runtime: FeatureVisualizationRuntime, work: Any, on_progress: Callable[[Any], None] = lambda _: None
) -> FeatureVisualizationResult:
    runtime.prepare(work)
    if not work.is_long:
        (answer,) = runtime.results(runtime.forward([work]), [work])
        assert callable(answer)
        told = answer()
        assert isinstance(told, FeatureVisualizationResult)
        return told
    steps, made = runtime.steps(work), None
    while made is None:
        try:
            on_progress(next(steps))
        except StopIteration as end:
            made = end.value()
    assert isinstance(made, FeatureVisualizationResult)
    return made


@pytest.mark.parametrize(("layer", "side"), [("body.0", 3), ("body.5", 12)])
def test_a_deconvnet_shows_patterns_and_the_crops_they_were_found_in(
    runtime: FeatureVisualizationRuntime, layer: str, side: int
) -> None:
    image = photo()
    work = make_work(image, method="deconvnet", layers=[layer], max_channels=3)
    result = finish(runtime, work)
    assert len(result.units) == 3
    assert [unit.activation for unit in result.units] == sorted(
        (unit.activation for unit in result.units), reverse=True
    )
    for unit in result.units:
        assert unit.position_yx is not None
        assert unit.box_xyxy is not None
        left, top, right, bottom = unit.box_xyxy
        # The picture is three times as wide as the input, and twice as high.
        assert 0 < right - left <= 3 * side
        assert 0 < bottom - top <= 2 * side
        row, column = unit.position_yx
        step = 1 if layer == "body.0" else 4
        assert left <= 3 * (column + 0.5) * step <= right
        assert top <= 2 * (row + 0.5) * step <= bottom
        patch = np.asarray(work.keep.open(unit.patch))
        cut = image.crop((int(left), int(top), -(-int(right * 1000) // 1000), -(-int(bottom * 1000) // 1000)))
        factor = patch.shape[1] // cut.width
        assert np.array_equal(patch[::factor, ::factor], np.asarray(cut))
        assert np.asarray(work.keep.open(unit.pattern)).std() > 5
    assert work.keep.open(result.sheet).width > 300


def test_units_without_positions_see_the_whole_picture(runtime: FeatureVisualizationRuntime) -> None:
    result = finish(runtime, make_work(photo(), method="deconvnet", layers=["head"], channels=[2, 0]))
    assert [unit.channel for unit in result.units] == [2, 0]
    assert {unit.position_yx for unit in result.units} == {None}
    assert {unit.box_xyxy for unit in result.units} == {(0, 0, 96, 64)}
    excited = [unit for unit in result.units if (unit.activation or 0) > 0]
    assert all((unit.pattern is not None) == (unit in excited) for unit in result.units)


def test_patches_and_sheets_are_left_out_where_nobody_wants_them(runtime: FeatureVisualizationRuntime) -> None:
    work = make_work(photo(), method="deconvnet", max_channels=2, patches=False, sheet=False)
    result = finish(runtime, work)
    assert result.sheet is None
    assert all(unit.pattern is not None and unit.patch is None for unit in result.units)


def test_activations_are_those_of_the_deconvnet_and_share_batches(runtime: FeatureVisualizationRuntime) -> None:
    options = {"layers": ["body.1", "head"], "channels": [3, 1]}
    works = [make_work(photo(seed), method="activations", **options) for seed in range(3)]
    for work in works:
        runtime.prepare(work)
    assert len({work.key for work in works}) == 1
    assert not runtime.takes_long(works[0].request)
    for seed, answer in enumerate(runtime.results(runtime.forward(works), works)):
        assert callable(answer)
        told = answer()
        expected = finish(runtime, make_work(photo(seed), method="deconvnet", **options))
        assert isinstance(told, FeatureVisualizationResult)
        for unit, other in zip(told.units, expected.units, strict=True):
            assert unit.activation == pytest.approx(other.activation, rel=1e-4, abs=1e-6)
            assert (unit.channel, unit.position_yx, unit.box_xyxy) == (
                other.channel, other.position_yx, other.box_xyxy
            )  # fmt: skip


def test_a_ranking_asks_each_image_for_the_same_channels(runtime: FeatureVisualizationRuntime) -> None:
    for seed in range(3):
        result = finish(runtime, make_work(photo(seed), method="activations", max_channels=4, selection="first"))
        assert [unit.channel for unit in result.units] == [0, 1, 2, 3]


def test_filters_are_colours_or_planes(runtime: FeatureVisualizationRuntime) -> None:
    work = make_work(method="filters", layers=["body.0", "body.3"], max_channels=5)
    result = finish(runtime, work)
    assert result.image_size_wh is None
    assert [unit.layer for unit in result.units] == ["body.0"] * 5 + ["body.3"] * 5
    colours = np.asarray(work.keep.open(result.units[0].pattern)).astype(int)
    planes = np.asarray(work.keep.open(result.units[5].pattern))
    assert (np.ptp(colours, axis=2) > 10).any()
    assert (planes == planes[..., :1]).all()
    assert work.keep.open(result.sheet).width > 400
    assert finish(runtime, make_work(method="filters")).units[0].layer == "body.0"


def test_climbing_tells_its_steps_and_gives_pictures_of_the_size_asked_for(
    runtime: FeatureVisualizationRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.feature_visualization_steps.PREVIEW_EVERY_S", 0)
    told: list[Any] = []
    work = make_work(steps=5, layers=["body.3"], size_px=140, channels=[2, 0, 6])
    result = finish(runtime, work, told.append)
    assert [unit.channel for unit in result.units] == [2, 0, 6]
    assert (result.steps, result.stopped, result.partial) == (5, "finished", False)
    assert work.keep.open(result.units[0].pattern).size == (140, 140)
    assert [progress.done for progress in told[:15]] == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5]
    assert told[-1].eta_s == 0
    assert work.keep.open(told[-1].preview).format == "JPEG"


def test_no_step_of_a_climb_draws_for_more_units_than_it_moves(
    runtime: FeatureVisualizationRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.feature_visualization_steps.STEP_VALUES", 2 * 3 * 32 * 32)
    draw, drawn = torch.randn, []

    def counted(*args: Any, **keywords: Any) -> torch.Tensor:
        drawn.append(args)
        return draw(*args, **keywords)

    monkeypatch.setattr(torch, "randn", counted)
    work = make_work(layers=["body.3"], channels=list(range(8)), steps=100_000)
    runtime.prepare(work)
    assert work.num_pixels >= 8 * 2 * 3 * 32 * 32
    steps = runtime.steps(work)
    for count in range(1, 4):
        next(steps)
        assert len(drawn) == 2 * count
    work.stopping = True
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert len(drawn) <= 8
    assert len(end.value.value().units) == len(drawn) == 8


CHANGES = [
    {"learning_rate": 0.2},
    {"seed": 1},
    {"steps": 9},
    {"regularization": {"l2": 1.0}},
    {"regularization": {"tv": 2.0}},
    {"regularization": {"jitter_px": 0}},
    {"regularization": {"blur_every": 1}},
    {"regularization": {"blur_every": 1, "blur_sigma_px": 2.0}},
]


def test_every_option_of_a_climb_changes_the_picture_and_nothing_else_does(
    runtime: FeatureVisualizationRuntime,
) -> None:
    def pixels(**changed: Any) -> np.ndarray:
        options = {"steps": 8, "channels": [1], "sheet": False, **changed}
        work = make_work(**options)
        return np.asarray(work.keep.open(finish(runtime, work).units[0].pattern)).astype(int)

    plain = pixels()
    assert np.array_equal(pixels(), plain)
    for changed in CHANGES:
        assert np.abs(pixels(**changed) - plain).mean() > 0.05, changed


@pytest.mark.parametrize(
    "options", [{"steps": 10_000}, {"method": "deconvnet", "layers": ["body.1"], "max_channels": 6}]
)
@pytest.mark.parametrize(
    ("reason", "told"), [("cancelled", "cancelled"), ("deadline", "deadline"), (None, "cancelled")]
)
@pytest.mark.parametrize("after", [0, 3])
def test_told_to_stop_it_hands_over_its_best_at_the_next_step(
    runtime: FeatureVisualizationRuntime, options: dict[str, Any], reason: Any, told: str, after: int
) -> None:
    work = make_work(photo() if "method" in options else None, **options)
    runtime.prepare(work)
    steps = runtime.steps(work)
    for _ in range(after):
        next(steps)
    work.stopping, work.stop_reason = True, reason
    with pytest.raises(StopIteration) as end:
        next(steps)
    result = end.value.value()
    assert (result.stopped, result.partial) == (told, True)
    assert all(unit.activation is not None for unit in result.units)
    if "method" not in options:
        assert all(unit.pattern is not None for unit in result.units)
    elif after:
        assert 0 < sum(unit.pattern is not None for unit in result.units) < 6


def test_it_keeps_its_time_budget(runtime: FeatureVisualizationRuntime) -> None:
    started, told = time.monotonic(), []
    result = finish(runtime, make_work(steps=100_000, channels=[0], time_budget_s=0.2), told.append)
    assert (result.stopped, result.partial) == ("time_budget", True)
    assert time.monotonic() - started < 10
    assert max(progress.eta_s for progress in told) <= 0.2


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"layers": ["body.9"]}, UnknownLayer, "Close names: .*body"),
        ({"layers": ["body.3"], "channels": [1, 8]}, UnsupportedOption, "from 0 to 7, got 8"),
        ({"method": "filters", "layers": ["body.1"]}, UnsupportedOption, "Convolutions are body.0, body.3"),
        ({"size_px": 2048, "channels": list(range(8))}, InvalidRequestError, "768 MiB for 8 units .* fewer"),
    ],
)
def test_what_the_network_cannot_do_is_refused_before_the_device_sees_it(
    runtime: FeatureVisualizationRuntime, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        runtime.prepare(make_work(**options))


def test_a_size_that_the_head_cannot_take_is_told(runtime: FeatureVisualizationRuntime) -> None:
    with pytest.raises(UnsupportedOption, match="size_px unset for 32x32"):
        finish(runtime, make_work(layers=["head"], size_px=64))


def test_a_network_without_relu_is_told_what_works_instead(tmp_path: Path) -> None:
    runtime = FeatureVisualizationRuntime(host(tmp_path, CARD + '[arguments]\nactivation = "Tanh"\n'))
    runtime.warm_up(1)
    with pytest.raises(UnsupportedOption, match="activation_maximization, activations and filters"):
        runtime.prepare(make_work(photo(), method="deconvnet"))
    assert len(finish(runtime, make_work(photo(), method="activations")).units) == 8


def test_a_preprocessing_hook_hides_the_geometry_and_the_range(tmp_path: Path) -> None:
    runtime = FeatureVisualizationRuntime(host(tmp_path, CARD + '[hooks]\npreprocess = "net:own"\n'))
    with pytest.raises(InvalidRequestError, match="patches=false"):
        runtime.prepare(make_work(photo(), method="deconvnet"))
    with pytest.raises(InvalidRequestError, match="range of its input"):
        runtime.prepare(make_work())
    told = finish(runtime, make_work(photo(), method="activations"))
    assert {unit.box_xyxy for unit in told.units} == {None}
    assert finish(runtime, make_work(photo(), method="deconvnet", patches=False)).units


def test_a_network_without_channels_is_refused_at_warm_up(tmp_path: Path) -> None:
    network = "import torch\nclass Small(torch.nn.Module):\n    def forward(self, x):\n        return x.flatten(1)\n"
    write_model(tmp_path, "small", card=CARD, network=network)
    with pytest.raises(ModelLoadError, match=r"feature_visualization: .* found none"):
        FeatureVisualizationRuntime(HostedModel(Catalog(tmp_path).find("small"), device="cpu")).warm_up(1)


@pytest.fixture
def served(rig: Rig, runtime: FeatureVisualizationRuntime) -> Rig:
    # Once it answers, the device thread no longer walks over the table.
    assert rig.answers(rig.submit([1])) == [1]
    rig.engine.batcher.runtimes["feature_visualization"] = runtime
    return rig


def submit(rig: Rig, images: list[Image.Image], *, lane: Lane = Lane.INTERACTIVE, **fields: Any) -> str:
    job = f"features{time.monotonic_ns()}"
    payloads = {}
    for index, image in enumerate(images):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        payloads[f"blob:{job}:{index}"] = stream.getvalue()
    refs = [BlobImage(key=key, size_bytes=len(data)) for key, data in payloads.items()]
    request = build_request("feature_visualization", model=rig.hosted.card.name, images=refs, **fields)
    call = calls.submit(
        request, job=job, lane=lane, client="c1", settings=rig.settings,
        payloads=payloads, wait_for_worker=True,
    )  # fmt: skip
    run(rig.redis, call)
    rig.engine.accept(job)
    return job


def results(rig: Rig, job: str) -> list[FeatureVisualizationResult]:
    items = [parse_item("feature_visualization", text) for text in rig.ended(job).items]
    found = [item.result for item in items]
    assert all(isinstance(result, FeatureVisualizationResult) for result in found), items
    return found  # type: ignore[return-value]


def test_a_job_without_images_has_one_item(served: Rig) -> None:
    (result,) = results(served, submit(served, [], options={"steps": 3, "max_channels": 2}))
    assert len(result.units) == 2
    assert result.sheet is not None


def test_images_are_ranked_in_one_batch_and_projected_one_by_one(served: Rig) -> None:
    images = [photo(seed) for seed in range(4)]
    ranked = results(served, submit(served, images, options={"method": "activations", "channels": [0]}))
    shown = results(served, submit(served, images, options={"method": "deconvnet", "channels": [0]}))
    assert [one.units[0].activation for one in ranked] == pytest.approx([one.units[0].activation for one in shown])
    assert all(one.units[0].patch is not None for one in shown)


@pytest.mark.parametrize(
    ("step_s", "expected"), [(0.0, [1, 2, 4, 8, 3]), (TARGET_STEP_S, [1] * 5)], ids=["quick", "slow"]
)
def test_a_ranking_of_a_folder_fills_batches_that_keep_nobody_waiting(
    served: Rig, monkeypatch: pytest.MonkeyPatch, step_s: float, expected: list[int]
) -> None:
    batcher, number = served.engine.batcher, sum(expected)
    runtime, all_are_ready = batcher.runtimes["feature_visualization"], threading.Event()
    sizes: list[int] = []
    forward = runtime.forward

    def noted(batch: Any) -> Any:
        sizes.append(len(batch))
        time.sleep(step_s)
        return forward(batch)

    monkeypatch.setattr(runtime, "forward", noted)
    batcher.between(lambda: all_are_ready.wait(30))
    options = {"method": "activations", "channels": [0]}
    job = submit(served, [photo()] * number, lane=Lane.BULK, options=options)
    wait_for(lambda: batcher._ready.count(Lane.BULK) == number)
    all_are_ready.set()
    assert len(results(served, job)) == number
    assert sizes == expected


def test_a_cancelled_climb_gives_what_it_has(served: Rig) -> None:
    served.keeper.start()
    job = submit(served, [], options={"steps": 100_000, "max_channels": 1})
    wait_for(lambda: (told := served.envelope(job).record.progress) and told.done > 2)
    run(served.redis, calls.cancel(job))
    (result,) = results(served, job)
    assert (result.stopped, result.partial) == ("cancelled", True)
    assert result.units[0].pattern is not None
