"""Embeddings against plain torch."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.catalog import Catalog
from models.errors import UnknownLayer
from models.images import Decoded
from models.preprocess import Preprocess
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.requests import EmbeddingOptions
from visionpipe.schemas.results import EmbeddingResult
from workers import embedding
from workers.embedding import EmbeddingRuntime, agrees
from workers.hosted import HostedModel
from workers.runtime import run_batch

REF = ArtifactRef(key=f"artifact:{'0' * 64}", media_type="application/x-npy", size_bytes=1)


@pytest.fixture(scope="module")
def lenet() -> HostedModel:
    model = HostedModel(Catalog().find("lenet-digits"), device="cpu")
    model.set_precision("fp32")
    return model


@pytest.fixture
def runtime(lenet: HostedModel) -> EmbeddingRuntime:
    return EmbeddingRuntime(lenet)


def picture(seed: int, size_wh: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, size=size_wh[::-1], dtype=np.uint8)
    return Image.fromarray(pixels)


def make_work(seed: int, **options: Any) -> Any:
    kept: list[tuple[bytes, str]] = []

    def keep(data: bytes, media_type: str) -> ArtifactRef:
        kept.append((data, media_type))
        return REF

    return SimpleNamespace(
        request=SimpleNamespace(options=EmbeddingOptions(**options)),
        image=Decoded(picture(seed)),
        size_wh=(8, 8),
        keep=keep,
        kept=kept,
        ready_at=0.0,
        times_ms={},
    )


def answers(runtime: EmbeddingRuntime, works: list[Any]) -> list[Any]:
    for work in works:
        runtime.prepare(work)
    assert len({work.key for work in works}) == 1
    told = run_batch(runtime, works, lambda _: None)
    return [answer() if callable(answer) else answer for answer in told]


def expected(lenet: HostedModel, seed: int, layer: str, pooling: str) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    module: nn.Module = lenet.master.get_submodule(layer)
    with torch.inference_mode(), module.register_forward_hook(lambda _, __, output: seen.append(output)):
        lenet.master(Preprocess(lenet.card.preprocess)(picture(seed))[None])
    (maps,) = seen
    if pooling == "flatten":
        return maps.flatten(1)[0]
    return (maps.mean((2, 3)) if pooling == "avg" else maps.amax((2, 3)))[0]


def test_by_default_it_is_what_enters_the_head_and_one_batch_serves_many_images(
    runtime: EmbeddingRuntime, lenet: HostedModel
) -> None:
    network: Any = lenet.master
    inputs = torch.stack([Preprocess(lenet.card.preprocess)(picture(seed)) for seed in range(3)])
    features = network.features(inputs)
    for seed, result in enumerate(answers(runtime, [make_work(seed) for seed in range(3)])):
        assert (result.layer, result.dimensions, result.normalized) == ("output:input", 84, False)
        assert result.vector == pytest.approx(features[seed].tolist(), abs=1e-5)
        assert result.norm == pytest.approx(float(features[seed].norm()), rel=1e-5)
        assert result.image_size_wh == (8, 8)


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_any_layer_may_be_asked_for_in_any_pooling(runtime: EmbeddingRuntime, lenet: HostedModel, pooling: Any) -> None:
    (result,) = answers(runtime, [make_work(5, layer="c3", pooling=pooling)])
    assert result.layer == "c3"
    assert result.vector == pytest.approx(expected(lenet, 5, "c3", pooling).tolist(), abs=1e-5)
    assert result.dimensions == (1600 if pooling == "flatten" else 16)


def test_a_result_names_its_layer_in_a_form_that_may_be_asked_for(runtime: EmbeddingRuntime) -> None:
    (plain,) = answers(runtime, [make_work(1)])
    (again,) = answers(runtime, [make_work(1, layer=plain.layer)])
    assert again == plain


def test_a_normalised_vector_has_length_one_and_tells_its_norm(runtime: EmbeddingRuntime) -> None:
    (plain,) = answers(runtime, [make_work(2)])
    (unit,) = answers(runtime, [make_work(2, normalize=True)])
    assert unit.normalized
    assert unit.norm == plain.norm
    assert np.linalg.norm(unit.vector) == pytest.approx(1, abs=1e-6)
    assert np.array(unit.vector) * plain.norm == pytest.approx(np.array(plain.vector), abs=1e-5)


def test_a_vector_of_zeros_stays_one(runtime: EmbeddingRuntime, lenet: HostedModel) -> None:
    work = make_work(0, normalize=True)
    (result,) = runtime.results(torch.zeros(1, 4), [work])
    assert isinstance(result, EmbeddingResult)
    assert (result.norm, result.vector) == (0, [0.0] * 4)


def test_as_an_artifact_it_is_an_npy_file_kept_off_the_device_thread(runtime: EmbeddingRuntime) -> None:
    (plain,) = answers(runtime, [make_work(3, normalize=True)])
    work = make_work(3, normalize=True, as_artifact=True)
    runtime.prepare(work)
    (deferred,) = run_batch(runtime, [work], lambda _: None)
    assert work.kept == []
    assert callable(deferred)
    result = deferred()
    assert isinstance(result, EmbeddingResult)
    assert (result.vector, result.artifact, result.dimensions) == (None, REF, 84)
    ((data, media_type),) = work.kept
    vector = np.load(io.BytesIO(data))
    assert (vector.dtype, vector.shape, media_type) == (np.float32, (84,), "application/x-npy")
    assert vector.tolist() == plain.vector


def test_a_layer_that_is_not_there_is_refused_before_the_device_sees_it(runtime: EmbeddingRuntime) -> None:
    with pytest.raises(UnknownLayer, match=r"got 'c33'\. Close names: c3") as caught:
        runtime.prepare(make_work(0, layer="c33"))
    assert caught.value.code == InvalidRequestError.code


def test_a_vector_too_long_for_a_result_asks_for_an_artifact(
    runtime: EmbeddingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding, "MAX_INLINE_VALUES", 1599)
    (error,) = answers(runtime, [make_work(0, layer="c3", pooling="flatten")])
    assert isinstance(error, InvalidRequestError)
    assert "got 1600 from c3" in error.message
    (result,) = answers(runtime, [make_work(0, layer="c3", pooling="flatten", as_artifact=True)])
    assert result.dimensions == 1600


def test_numbers_that_are_none_fail_that_image_alone(runtime: EmbeddingRuntime) -> None:
    outputs = torch.tensor([[1.0, 2.0], [float("nan"), 0.0]])
    good, bad = runtime.results(outputs, [make_work(0), make_work(1)])
    assert isinstance(good, EmbeddingResult)
    assert isinstance(bad, ArithmeticError)


def test_requests_of_other_layers_or_poolings_share_no_batch(runtime: EmbeddingRuntime) -> None:
    works = [make_work(0), make_work(0, layer="c3"), make_work(0, pooling="max"), make_work(0, normalize=True)]
    for work in works:
        runtime.prepare(work)
    assert len({work.key for work in works}) == 3


CARD = """
name = "{name}"
tasks = ["embedding"]
network = "net:Grey"
licence = "CC0-1.0"
labels = []
[preprocess]
mode = "L"
mean = [0.0]
std = [1.0]
[provenance]
origin = "made for a test"
"""
MAPS = """
import torch

class Grey(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Identity()

    def forward(self, x_NCHW):
        return self.body(x_NCHW)
"""


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., EmbeddingRuntime]:
    def make(more: str = "") -> EmbeddingRuntime:
        (tmp_path / "maps").mkdir()
        (tmp_path / "maps" / "card.toml").write_text(CARD.format(name="maps") + more)
        (tmp_path / "maps" / "net.py").write_text(MAPS)
        model = HostedModel(Catalog(tmp_path).find("maps"), device="cpu")
        model.set_precision("fp32")
        return EmbeddingRuntime(model)

    return make


def test_a_card_may_name_the_layer(host: Callable[..., EmbeddingRuntime]) -> None:
    runtime = host('[embedding]\nlayer = "body"\n')
    runtime.warm_up(2)
    (result,) = answers(runtime, [make_work(4)])
    assert (result.layer, result.dimensions) == ("body", 1)
    assert result.vector == pytest.approx([np.asarray(picture(4)).mean() / 255], abs=1e-5)


@pytest.mark.parametrize(
    ("more", "says"),
    [("", r"maps: .*\[embedding\] layer"), ('[embedding]\nlayer = "bodi"\n', "maps: embedding.layer: .*names: body")],
    ids=["no_head", "no_such_layer"],
)
def test_a_network_that_cannot_do_it_is_refused_at_warm_up(
    host: Callable[..., EmbeddingRuntime], more: str, says: str
) -> None:
    with pytest.raises(ModelLoadError, match=says):
        host(more).warm_up(1)


NORMED = """
import torch

class Grey(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x_NCHW):
        return self.norm(self.conv(x_NCHW))
"""


@pytest.mark.parametrize("layer", ["conv", "norm:input", "norm", "conv:input"])
def test_a_layer_that_was_folded_for_speed_still_gives_its_own_output(
    host: Callable[..., EmbeddingRuntime], monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "MAPS", NORMED)
    runtime = host('[embedding]\nlayer = "norm"\n')
    assert runtime.hosted.folded == {"conv", "norm"}
    (result,) = answers(runtime, [make_work(4, layer=layer)])
    x_NCHW = Preprocess(runtime.hosted.card.preprocess)(picture(4))[None]
    network: Any = runtime.hosted.master
    maps = {"conv": network.conv(x_NCHW), "norm": network(x_NCHW), "conv:input": x_NCHW}
    maps["norm:input"] = maps["conv"]
    assert result.vector == pytest.approx(maps[layer].mean((2, 3))[0].tolist(), abs=1e-5)


def test_warm_up_and_parity_of_a_model_with_itself(runtime: EmbeddingRuntime) -> None:
    runtime.warm_up(4)
    assert runtime.parity("fp32")


@pytest.mark.parametrize(
    ("exact", "quick", "verdict"),
    [
        ([3.0, 4.0], [3.01, 3.99], True),
        ([3.0, 4.0], [3.7, 3.3], False),
        ([3.0, 4.0], [3.3, 4.4], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.0], [0.1, 0.0], False),
        ([3.0, 4.0], [float("nan"), 4.0], False),
    ],
    ids=["close", "turned", "longer", "zeros", "from_zero", "not_a_number"],
)
def test_precisions_agree_within_the_stated_tolerance(exact: list[float], quick: list[float], verdict: bool) -> None:
    assert agrees(torch.tensor([exact]), torch.tensor([quick])) is verdict
