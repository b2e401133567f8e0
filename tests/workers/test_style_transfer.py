"""Style transfer on a tiny encoder: every option, every reason to stop, and its manners as a long job."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models.catalog import Catalog
from models.errors import UnknownLayer
from models.gatys import Evaluated, Terms
from models.gatys import painting as painting_module
from models.images import Decoded
from models.networks.style_encoder import StyleEncoder
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.queue import calls, run
from visionpipe.schemas.images import ArtifactRef, BlobImage
from visionpipe.schemas.jobs import JobState
from visionpipe.schemas.requests import StyleTransferOptions
from visionpipe.schemas.results import StyleTransferResult
from visionpipe.store import open_store
from visionpipe.tasks import parse_item
from workers.hosted import HostedModel
from workers.style_results import thinned
from workers.style_transfer import StyleTransferRuntime

from .conftest import Rig, wait_for

CARD = """
name = "tiny-style"
tasks = ["style_transfer"]
network = "style_encoder"
licence = "CC0-1.0"
[arguments]
widths = [5, 7]
depths = [2, 1]
[weights]
file = "weights.safetensors"
[preprocess]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[style_transfer]
content_layers = { relu2_1 = 1.0 }
style_layers = { relu1_1 = 1.0, relu2_1 = 1.0 }
[serving]
max_batch = 1
[provenance]
origin = "made for a test"
"""


def host(folder: Path, card: str = CARD, *, scale: float = 1.0) -> HostedModel:
    place = folder / "tiny-style"
    place.mkdir(parents=True)
    torch.manual_seed(0)
    weights = StyleEncoder(widths=(5, 7), depths=(2, 1)).state_dict()
    save_file({name: scale * tensor for name, tensor in weights.items()}, place / "weights.safetensors")
    (place / "card.toml").write_text(card)
    model = HostedModel(Catalog(folder).find("tiny-style"), device="cpu")
    model.set_precision("fp32")
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> HostedModel:
    return host(tmp_path_factory.mktemp("styles"))


@pytest.fixture
def runtime(tiny: HostedModel) -> StyleTransferRuntime:
    made = StyleTransferRuntime(tiny)
    made.s_per_pixel = 1e-6
    return made


def picture(seed: int, size_wh: tuple[int, int] = (80, 60)) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size_wh, Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


class Kept:
    """Stands in for the store of artifacts."""

    def __init__(self) -> None:
        self.artifacts: list[tuple[bytes, str]] = []

    def __call__(self, data: bytes, media_type: str) -> ArtifactRef:
        self.artifacts.append((data, media_type))
        return ArtifactRef(key=f"artifact:{len(self.artifacts):064x}", media_type=media_type, size_bytes=len(data))

    def pictures(self, media_type: str) -> list[Image.Image]:
        return [Image.open(io.BytesIO(data)) for data, kind in self.artifacts if kind == media_type]


def make_work(
    *, styles: list[dict[str, Any]] | None = None, size_wh: tuple[int, int] = (80, 60), **options: Any
) -> Any:
    """Make one image's work; styles are named by the seeds of their pictures."""
    styles = styles or [{"seed": 2}]
    refs = [
        {"image": BlobImage(key=f"blob:style:{style.pop('seed')}", size_bytes=1), **style}
        for style in (dict(style) for style in styles)
    ]
    chosen = {"steps": 4, "size_px": 64, "preview_every": 0, **options, "styles": refs}
    return SimpleNamespace(
        request=SimpleNamespace(options=StyleTransferOptions(**chosen), task="style_transfer"),
        image=Decoded(picture(1, size_wh)),
        size_wh=size_wh,
        read=lambda ref: Decoded(picture(int(ref.key.rpartition(":")[2]))),
        keep=(kept := Kept()),
        try_keep=kept,
        prepared=None,
        num_pixels=0,
        stopping=False,
        stop_reason=None,
    )


def finish(runtime: StyleTransferRuntime, work: Any, on_progress: Callable[[Any], None] = lambda _: None) -> Any:
    runtime.prepare(work)
    steps = runtime.steps(work)
    while True:
        try:
            on_progress(next(steps))
        except StopIteration as end:
            return end.value() if callable(end.value) else end.value


def made_picture(work: Any) -> np.ndarray:
    (image,) = work.keep.pictures("image/png")
    return np.asarray(image).astype(int)


def test_a_picture_is_painted_in_the_size_asked_for(runtime: StyleTransferRuntime) -> None:
    work = make_work(steps=6, size_px=72, size_wh=(80, 61))
    result = finish(runtime, work)
    assert isinstance(result, StyleTransferResult)
    assert (result.size_wh, result.image_size_wh) == ((72, 55), (80, 61))
    assert made_picture(work).shape == (55, 72, 3)
    assert (result.steps, result.stopped, result.partial) == (6, "finished", False)
    assert result.losses[0].step == 0
    assert result.losses[0].content == pytest.approx(0, abs=1e-6)
    assert result.losses[-1].total == min(loss.total for loss in result.losses)
    assert result.losses[-1].total < result.losses[0].total
    assert result.step_ms > 0


def test_progress_tells_steps_cost_and_the_loss_curve(runtime: StyleTransferRuntime) -> None:
    told: list[Any] = []
    finish(runtime, make_work(steps=5), told.append)
    assert [progress.done for progress in told[-6:]] == [0, 1, 2, 3, 4, 5]
    assert {progress.total for progress in told} == {5}
    last = told[-1].model_dump(mode="json")
    assert [step for step, _ in last["details"]["losses"]] == [0, 1, 2, 3, 4, 5]
    assert last["eta_s"] == 0
    assert told[-2].eta_s == pytest.approx(told[-2].details["step_ms"] / 1000, rel=0.05)


def test_previews_come_as_often_as_asked(runtime: StyleTransferRuntime) -> None:
    work, told = make_work(steps=7, preview_every=3, size_px=400), []
    finish(runtime, work, told.append)
    previews = work.keep.pictures("image/jpeg")
    assert [preview.size for preview in previews] == [(320, 240)] * 3
    assert told[-1].preview is not None
    assert told[-1].preview.media_type == "image/jpeg"
    assert not finish_quietly(runtime, make_work(steps=7)).pictures("image/jpeg")


def finish_quietly(runtime: StyleTransferRuntime, work: Any) -> Kept:
    finish(runtime, work)
    kept: Kept = work.keep
    return kept


def test_a_preview_that_is_not_kept_changes_nothing(runtime: StyleTransferRuntime) -> None:
    work, told = make_work(steps=3, preview_every=1), []
    work.try_keep = lambda *_: None
    assert finish(runtime, work, told.append).stopped == "finished"
    assert {progress.preview for progress in told} == {None}


@pytest.mark.parametrize(
    "changed",
    [
        {"content_weight": 50.0},
        {"style_weight": 3.0},
        {"tv_weight": 30.0},
        {"content_layers": {"relu1_1": 1.0}, "content_weight": 20.0},
        {"style_layers": {"relu1_2": 1.0}},
        {"style_layers": {"relu1_1": 1.0, "relu2_1": 9.0}},
        {"optimizer": "adam"},
        {"optimizer": "adam", "learning_rate": 0.005},
        {"learning_rate": 0.2},
        {"init": "noise"},
        {"preserve_colour": "luminance"},
        {"preserve_colour": "histogram"},
        {"style_scale": 2.0},
        {"styles": [{"seed": 3}]},
        {"styles": [{"seed": 2, "weight": 1.0}, {"seed": 3, "weight": 2.0}]},
    ],
    ids=lambda changed: "-".join(f"{name}={value}" for name, value in changed.items())[:50],
)
def test_every_option_changes_the_picture(runtime: StyleTransferRuntime, changed: dict[str, Any]) -> None:
    plain, other = make_work(), make_work(**changed)
    finish(runtime, plain)
    result = finish(runtime, other)
    assert np.abs(made_picture(other) - made_picture(plain)).mean() > 0.1
    assert result.losses[-1].total < result.losses[0].total


def test_the_seed_chooses_the_noise(runtime: StyleTransferRuntime) -> None:
    works = [make_work(init="noise", seed=seed) for seed in (5, 5, 6)]
    for work in works:
        finish(runtime, work)
    first, again, other = (made_picture(work) for work in works)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_equal_weights_of_one_style_twice_are_that_style(runtime: StyleTransferRuntime) -> None:
    once, twice = make_work(), make_work(styles=[{"seed": 2, "weight": 4}, {"seed": 2, "weight": 4}])
    finish(runtime, once)
    finish(runtime, twice)
    assert np.abs(made_picture(once) - made_picture(twice)).max() <= 1


@pytest.mark.parametrize(
    ("reason", "told"), [("cancelled", "cancelled"), ("deadline", "deadline"), (None, "cancelled")]
)
def test_when_told_to_stop_it_hands_over_its_best_at_once(
    runtime: StyleTransferRuntime, reason: Any, told: str
) -> None:
    work = make_work(steps=10_000)
    runtime.prepare(work)
    steps = runtime.steps(work)
    while next(steps).done < 3:
        pass
    work.stopping, work.stop_reason = True, reason
    with pytest.raises(StopIteration) as end:
        next(steps)
    result = end.value.value()
    assert (result.stopped, result.partial, result.steps) == (told, True, 3)
    assert made_picture(work).shape == (48, 64, 3)


def test_told_to_stop_before_the_first_evaluation_it_makes_that_and_no_more(runtime: StyleTransferRuntime) -> None:
    work = make_work(steps=10_000)
    runtime.prepare(work)
    work.stopping, work.stop_reason = True, "cancelled"
    steps = runtime.steps(work)
    told = [next(steps)]
    with pytest.raises(StopIteration) as end:
        next(steps)
    result = end.value.value()
    assert (told[0].done, result.steps, result.stopped) == (0, 0, "cancelled")


@pytest.mark.usefixtures("endless")
def test_it_keeps_its_time_budget(runtime: StyleTransferRuntime) -> None:
    started = time.monotonic()
    work, told = make_work(steps=10_000, time_budget_s=0.3), []
    result = finish(runtime, work, told.append)
    assert (result.stopped, result.partial) == ("time_budget", True)
    assert result.steps < 10_000
    assert result.steps * result.step_ms / 1000 < 2
    assert time.monotonic() - started < 20
    assert max(progress.eta_s for progress in told) <= 0.3


def test_it_ends_when_it_has_converged(runtime: StyleTransferRuntime) -> None:
    result = finish(runtime, make_work(steps=10_000, styles=[{"seed": 1}], tv_weight=0))
    assert (result.stopped, result.partial) == ("converged", False)
    assert len(result.losses) <= 200


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    history = [Evaluated(step, Terms(1.0, 2.0, 3.0)) for step in range(1001)]
    steps = [evaluated.step for evaluated in thinned(history, 200)]
    assert (len(steps), steps[0], steps[-1]) == (200, 0, 1000)
    assert max(np.diff(steps)) <= 6
    assert thinned(history[:3], 200) == history[:3]


def test_the_cost_is_told_before_the_first_step_and_learned_from(
    tiny: HostedModel, runtime: StyleTransferRuntime
) -> None:
    work = make_work(steps=9, size_px=64)
    runtime.prepare(work)
    told = runtime.estimate(work)
    pixels = 64 * 48
    assert told.total == 9
    assert told.eta_s == pytest.approx(1e-6 * (10 * pixels + 2 * pixels / 3))
    assert told.note.startswith("64x48, 9 steps of about")
    result = finish(runtime, make_work(steps=9))
    measured = result.step_ms / 1000 / pixels
    assert runtime.s_per_pixel == pytest.approx((1e-6 + measured) / 2, rel=0.01)


def test_warm_up_measures_the_cost_of_a_pixel_once(tiny: HostedModel) -> None:
    fresh = StyleTransferRuntime(tiny)
    fresh.warm_up(4)
    assert 0 < fresh.s_per_pixel < 1e-3
    measured = fresh.s_per_pixel
    fresh.warm_up(4)
    assert fresh.s_per_pixel == measured
    assert fresh.parity("bf16")


def test_a_step_is_small_where_a_pixel_is_dear(tiny: HostedModel) -> None:
    runtime = StyleTransferRuntime(tiny)
    runtime.s_per_pixel = 1.0
    work = make_work(size_px=400, steps=1)
    runtime.prepare(work)
    steps = sum(1 for _ in runtime.steps(work))
    runtime.s_per_pixel = 1e-9
    assert steps > sum(1 for _ in runtime.steps(work))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"style_layers": {"relu4_1": 1.0}}, UnknownLayer, "got 'relu4_1'"),
        ({"content_layers": {"relu2_1": 0.0}}, InvalidRequestError, "content layer with a weight above 0"),
        ({"style_layers": {"relu2_1": 0.0}}, InvalidRequestError, "style layer with a weight above 0"),
        ({"size_px": 4096, "style_scale": 8}, InvalidRequestError, "at most 8192 pixels, got .* 32768"),
        ({"size_wh": (2000, 4)}, InvalidRequestError, "at least 2 pixels each way once resized, got 64x1"),
    ],
    ids=["unknown_layer", "no_content_layer", "no_style_layer", "huge_style", "too_thin"],
)
def test_wishes_that_cannot_be_met_are_refused_before_the_device_sees_them(
    runtime: StyleTransferRuntime, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        runtime.prepare(make_work(**options))


@pytest.mark.parametrize("term", ["content", "style"])
def test_a_term_without_weight_needs_no_layers(runtime: StyleTransferRuntime, term: str) -> None:
    work = make_work(**{f"{term}_weight": 0.0, f"{term}_layers": {"relu1_1": 0.0}})
    result = finish(runtime, work)
    assert {getattr(loss, term) for loss in result.losses} == {0}


def test_features_that_are_not_finite_fail_the_image(tmp_path: Path) -> None:
    runtime = StyleTransferRuntime(host(tmp_path, scale=1e20))
    assert isinstance(finish(runtime, make_work()), ArithmeticError)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (CARD.replace("relu2_1 = 1.0 }", "relu3_1 = 1.0 }", 1), "tiny-style: style_transfer: .*'relu3_1'"),
        (CARD.replace("[style_transfer]", "[provenance_]").split("[provenance_]")[0] + CARD[CARD.index("[serving]") :],
         "tiny-style: style_transfer: .*'relu4_2'"),
    ],
    ids=["the_cards_layer", "the_usual_layer"],
)  # fmt: skip
def test_an_encoder_that_lacks_its_layers_is_refused_at_warm_up(tmp_path: Path, card: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        StyleTransferRuntime(host(tmp_path, card)).warm_up(1)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny picture is as good as it gets within a second or two."""
    monkeypatch.setattr(painting_module, "PATIENCE", 10**6)


@pytest.fixture
def painting(rig: Rig, tiny: HostedModel, endless: None) -> Callable[..., str]:
    """Submits style transfer to a worker that classifies too."""
    runtime = StyleTransferRuntime(tiny)
    runtime.warm_up(1)
    # Once it answers, the device thread no longer walks over the table.
    assert rig.answers(rig.submit([1])) == [1]
    rig.engine.batcher.runtimes["style_transfer"] = runtime
    content, style = png(picture(1)), png(picture(2))

    def submit(**fields: Any) -> str:
        store = open_store(rig.settings, rig.redis)
        store.put("blob:style", style, ttl_s=600)
        options = {"size_px": 96, "steps": 10_000, "preview_every": 5, **fields.pop("options", {})}
        options["styles"] = [{"image": BlobImage(key="blob:style", size_bytes=len(style)).model_dump(mode="json")}]
        return submit_picture(rig, content, options, **fields)

    return submit


def submit_picture(rig: Rig, content: bytes, options: dict[str, Any], **fields: Any) -> str:
    from visionpipe.schemas.jobs import Lane
    from visionpipe.tasks import build_request

    job = f"style{time.monotonic_ns()}"
    ref = BlobImage(key=f"blob:{job}:0", size_bytes=len(content))
    request = build_request("style_transfer", model=rig.hosted.card.name, images=[ref], options=options, **fields)
    call = calls.submit(
        request, job=job, lane=Lane.INTERACTIVE, client="c1", settings=rig.settings,
        payloads={ref.key: content}, wait_for_worker=True,
    )  # fmt: skip
    run(rig.redis, call)
    rig.engine.accept(job)
    return job


def result_of(rig: Rig, job: str) -> StyleTransferResult:
    (item,) = [parse_item("style_transfer", text) for text in rig.ended(job).items]
    assert isinstance(item.result, StyleTransferResult), item.error
    return item.result


def test_while_it_paints_others_are_answered_and_cancelling_gives_the_best(
    rig: Rig, painting: Callable[..., str]
) -> None:
    rig.keeper.start()
    job = painting()
    progress = wait_for(lambda: (told := rig.envelope(job).record.progress) and told.preview and told)
    assert progress.total == 10_000
    assert progress.eta_s > 0
    assert len(progress.details["losses"]) >= 2
    store = open_store(rig.settings, rig.redis)
    assert Image.open(io.BytesIO(store.get(progress.preview.key))).size == (96, 72)
    assert [rig.answers(rig.submit([level])) for level in range(5)] == [[level] for level in range(5)]
    assert not rig.envelope(job).record.state.ended
    run(rig.redis, calls.cancel(job))
    result = result_of(rig, job)
    assert (result.stopped, result.partial) == ("cancelled", True)
    assert Image.open(io.BytesIO(store.get(result.picture.key))).size == (96, 72)
    assert result.losses[-1].total < result.losses[0].total


def test_a_deadline_gives_the_best_so_far_and_says_so(rig: Rig, painting: Callable[..., str]) -> None:
    rig.keeper.start()
    job = painting(deadline_s=1.5)
    result = result_of(rig, job)
    assert (result.stopped, result.partial) == ("deadline", True)
    assert rig.envelope(job).record.state is JobState.DONE


def test_a_job_that_is_done_is_whole(rig: Rig, painting: Callable[..., str]) -> None:
    result = result_of(rig, painting(options={"steps": 3}))
    assert (result.stopped, result.partial, result.steps) == ("finished", False, 3)


def test_a_style_that_cannot_be_read_fails_its_image(rig: Rig, painting: Callable[..., str]) -> None:
    missing = BlobImage(key="blob:nowhere", size_bytes=9).model_dump(mode="json")
    job = submit_picture(rig, png(picture(1)), {"styles": [{"image": missing}]})
    (item,) = [parse_item("style_transfer", text) for text in rig.ended(job).items]
    assert item.error is not None
    assert item.error.code == "image_expired"
