"""The recipe of the ResNet on cluttered digits, at the size of a test."""

import pytest
import torch

from models.catalog import Catalog
from models.loading import load
from models.preprocess import Preprocess
from models.recipes import resnet_digits, stn_canvases
from models.recipes.resnet_digits import Stage


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.setattr(stn_canvases, "NUM_HELD_OUT", 6)
    lines = []
    accuracy = resnet_digits.train(tmp_path / "mine", report=lines.append, stages=(Stage(32, 2, 4), Stage(64, 1, 4)))
    return tmp_path, accuracy, lines


def test_it_writes_a_model_that_can_be_hosted(trained):
    folder, accuracy, lines = trained
    entry = Catalog(folder).find("mine")
    assert entry.card.network == "torchvision:resnet18"
    assert entry.card.labels == list("0123456789")
    assert entry.card.quality[0].value == accuracy
    assert entry.card.preprocess.input_size_hw == (128, 128)
    assert "2 of 4 at 32 px, then 1 of 4 at 64 px" in entry.card.provenance.notes
    assert lines[-1].endswith("of 6 held-out canvases right")
    canvases = stn_canvases.examples(2)
    from_picture = Preprocess(entry.card.preprocess)(_picture(canvases))
    torch.testing.assert_close(from_picture, resnet_digits.to_input(canvases)[0], atol=0.03, rtol=0)
    assert load(entry)(from_picture[None]).shape == (1, 10)


def _picture(canvases):
    from PIL import Image

    return Image.fromarray(canvases.levels()[0])
