"""torchvision's segmentation networks, and a user's of segmentation-models-pytorch, against their own calls."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models as registry

from models import zoo
from models.catalog import Catalog, Entry
from models.errors import InvalidCard, ModelLoadFailed
from models.images import Decoded
from models.loading import load
from models.tiling import Tile
from tests.helpers.generated_weights import generate
from visionpipe.schemas.requests import SegmentationOptions
from workers.hosted import HostedModel
from workers.segmentation import SegmentationRuntime

TOLERANCE = 1e-3
"""Largest difference of any probability from the other call; other memory formats round otherwise."""
SHORTER_SIDE_PX = 52
"""What pictures are resized to, in place of 520, for speed: a scale of 0.1."""


def photograph(size_wh: tuple[int, int]) -> Image.Image:
    from skimage import data

    return Image.fromarray(data.astronaut()).crop((100, 0, 400, 200)).resize(size_wh)


def prepared(runtime: SegmentationRuntime, image: Image.Image, **options: Any) -> Any:
    work = SimpleNamespace(
        request=SimpleNamespace(options=SegmentationOptions(**options)), image=Decoded(image), size_wh=image.size
    )
    runtime.prepare(work)  # type: ignore[arg-type]
    return work


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if "resnet101" in name else []) for name in zoo.names("segmentation")],
)
@torch.inference_mode()
def test_probabilities_equal_torchvisions_own_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card = zoo.card(name)
    assert card is not None
    preset = registry.get_model_weights(name).DEFAULT.transforms(resize_size=SHORTER_SIDE_PX)
    images = [photograph((96, 64)), photograph((96, 64)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    inputs = torch.stack([preset(image) for image in images])
    is_lraspp = name.startswith("lraspp")
    heads = ("classifier.low_classifier", "classifier.high_classifier") if is_lraspp else ("classifier.4",)
    network = generate(name, inputs, heads=heads, **({} if is_lraspp else {"aux_loss": True}))
    theirs = network(inputs)["out"].softmax(dim=1).numpy()

    # What initialisation draws would be overwritten, and takes most of the time.
    for drawn in ("kaiming_uniform_", "kaiming_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, drawn, lambda tensor, *_, **__: tensor)
    monkeypatch.setattr("workers.hosted.load", lambda entry: zoo.build(entry.card, network.state_dict()).eval())
    runtime = SegmentationRuntime(HostedModel(Entry(card, None, "torchvision"), device="cpu"))
    outputs: Any = runtime.forward([prepared(runtime, image, scale=SHORTER_SIDE_PX / 520) for image in images])
    ours = outputs.numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)

    # The comparison can fail: answers differ between pictures and places.
    assert ours.shape == (2, 21, SHORTER_SIDE_PX, 78)
    assert np.abs(ours[0] - ours[1]).max() > 1e-2
    assert len(np.unique(ours.argmax(axis=1))) > 1


@pytest.mark.parametrize("name", zoo.names("segmentation"))
def test_cards_are_made_of_torchvisions_own_metadata(name: str) -> None:
    card, weights = zoo.card(name), registry.get_model_weights(name).DEFAULT
    assert card is not None
    assert card.tasks == ["segmentation"]
    assert card.labels == weights.meta["categories"]
    assert card.labels[card.segmentation.background] == "__background__"
    assert (card.preprocess.resize, card.preprocess.crop) == (520, None)
    assert {quality.metric for quality in card.quality} == {"miou", "pixel_acc"}
    assert "COCO" in card.licence


def test_plain_vgg_cards_serve_style_transfer_and_every_classification_card_embeddings() -> None:
    for name in ("vgg16", "vgg19"):
        card = zoo.card(name)
        assert card is not None
        assert card.tasks == ["classification", "embedding", "style_transfer"]
    assert zoo.names("embedding") == zoo.names("classification")


SMP_CARD = """
name = "{name}"
tasks = ["segmentation"]
network = "smp:{architecture}"
licence = "CC0-1.0"
labels = {labels}
[arguments]
encoder_name = "resnet18"
encoder_weights = "imagenet"
classes = {classes}
in_channels = 3
[weights]
file = "{file}"
[provenance]
origin = "made for a test"
"""


@pytest.mark.parametrize(
    ("architecture", "file", "classes"), [("Unet", "best.pth", 3), ("FPN", "model.safetensors", 1)]
)
@torch.inference_mode()
def test_a_users_checkpoint_answers_as_in_its_own_package(
    tmp_path: Path, architecture: str, file: str, classes: int
) -> None:
    torch.manual_seed(0)
    own = getattr(smp, architecture)("resnet18", encoder_weights=None, classes=classes, in_channels=3).eval()
    folder = tmp_path / "mine"
    folder.mkdir()
    labels = '["ground", "roof", "road"]' if classes == 3 else '["ground", "roof"]'
    text = SMP_CARD.format(name="mine", architecture=architecture, labels=labels, classes=classes, file=file)
    (folder / "card.toml").write_text(text)
    if file.endswith(".pth"):
        torch.save({"state_dict": own.state_dict(), "epoch": torch.tensor(7)}, folder / file)
    else:
        save_file(own.state_dict(), folder / file)
    hosted = HostedModel(Catalog(tmp_path).find("mine"), device="cpu")
    runtime = SegmentationRuntime(hosted)
    runtime.warm_up(1)
    work = prepared(runtime, photograph((90, 61)), probabilities=True)
    assert work.prepared.grid.tile_hw == (64, 96)
    found: Any = runtime.forward([work])
    logits = own(runtime._inputs.normalised(work.prepared.cut([Tile(0, 0)])))
    expected = logits.softmax(dim=1) if classes > 1 else torch.cat([1 - logits.sigmoid(), logits.sigmoid()], dim=1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=TOLERANCE)


def write_smp(folder: Path, architecture: str) -> Entry:
    (folder / "mine").mkdir()
    text = SMP_CARD.format(name="mine", architecture=architecture, labels="[]", classes=2, file="gone.pth")
    (folder / "mine" / "card.toml").write_text(text.replace('[weights]\nfile = "gone.pth"\n', ""))
    return Catalog(folder).find("mine")


def test_an_architecture_that_the_package_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises((InvalidCard, ModelLoadFailed), match=r"one of .*Unet.*, got 'Unett'"):
        load(write_smp(tmp_path, "Unett"))


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ModelLoadFailed, match=r"visionpipe\[smp\]"):
        load(write_smp(tmp_path, "Unet"))
