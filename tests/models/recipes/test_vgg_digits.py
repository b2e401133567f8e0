import pytest
import torch
from PIL import Image

from models.catalog import Catalog
from models.loading import load, parity_images
from models.preprocess import Preprocess
from models.recipes import digits, stn_canvases, vgg_digits
from models.recipes.stn_canvases import Ink


@pytest.fixture
def one_thread():
    """Put back what the recipe sets."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_short_training_writes_a_whole_model(one_thread, monkeypatch, tmp_path):
    monkeypatch.setattr(vgg_digits, "STEPS", 3)
    monkeypatch.setattr(vgg_digits, "BATCH", 16)
    monkeypatch.setattr(stn_canvases, "NUM_HELD_OUT", 60)
    accuracy = vgg_digits.train(tmp_path / "vgg-digits", report=lambda _: None)
    entry = Catalog(tmp_path).find("vgg-digits")
    assert entry.source == "user"
    assert entry.card.quality[0].value == pytest.approx(accuracy, abs=1e-6)
    network = load(entry)
    assert entry.card.cost.num_params == sum(parameter.numel() for parameter in network.parameters())
    assert vgg_digits.measure(network, stn_canvases.held_out()).accuracy == pytest.approx(accuracy)
    assert [image.size for image in parity_images(entry)] == [(64, 64)] * 10


def test_training_repeats(one_thread):
    torch.set_num_threads(1)
    ink = Ink.of(digits.training_split()[:50])
    first, second = (
        vgg_digits.fit(ink, report=lambda _: None, steps=2, stages=((4,), (8,)), num_features=8).state_dict()
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_few_digits_can_be_learnt(one_thread, monkeypatch):
    monkeypatch.setattr(vgg_digits, "BATCH", 32)
    monkeypatch.setattr(vgg_digits, "EMA_DECAY", 0.8)
    # Digits stay nearly upright and large.
    monkeypatch.setattr(vgg_digits, "CURRICULUM", 10.0)
    torch.set_num_threads(1)
    ink = Ink.of(digits.training_split()[:10])
    # Small enough for processors that only emulate bf16.
    network = vgg_digits.fit(ink, report=lambda _: None, steps=50, stages=((8,), (16,), (32,)), num_features=64)
    canvases = stn_canvases.draw(ink, 100, torch.Generator().manual_seed(1), distortion=0)
    assert vgg_digits.measure(network, canvases).accuracy > 0.9


def test_the_bundled_model_reads_held_out_canvases_as_its_card_says():
    entry = Catalog().find("vgg-digits")
    measured = vgg_digits.measure(load(entry), stn_canvases.held_out())
    assert measured.accuracy == pytest.approx(entry.card.quality[0].value, abs=0.002)
    assert measured.accuracy >= 0.95
    assert entry.card.arguments == vgg_digits.ARGUMENTS


def test_the_card_prepares_a_canvas_as_training_did():
    card = Catalog().find("vgg-digits").card
    canvases = stn_canvases.examples(2)
    picture = Image.fromarray(canvases.levels()[0])
    torch.testing.assert_close(Preprocess(card.preprocess)(picture), vgg_digits.normalised(canvases)[0])
