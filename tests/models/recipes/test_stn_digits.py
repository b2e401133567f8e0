import pytest
import torch

from models.catalog import Catalog
from models.loading import load, parity_images
from models.recipes import digits, stn_canvases, stn_digits
from models.recipes.stn_canvases import Ink


@pytest.fixture
def one_thread():
    """Put back what the recipe sets."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(stn_digits, "STEPS", 3)
    monkeypatch.setattr(stn_digits, "BATCH", 16)
    monkeypatch.setattr(stn_canvases, "NUM_HELD_OUT", 60)


def test_a_short_training_writes_a_whole_model(short, one_thread, tmp_path):
    lines = []
    accuracy = stn_digits.train(tmp_path / "stn-digits", report=lines.append)
    entry = Catalog(tmp_path).find("stn-digits")
    assert entry.source == "user"
    assert entry.card.quality[0].value == pytest.approx(accuracy, abs=1e-6)
    network = load(entry)
    assert entry.card.cost.num_params == sum(parameter.numel() for parameter in network.parameters())
    assert stn_digits.measure(network, stn_canvases.held_out()).accuracy == pytest.approx(accuracy)
    assert [image.size for image in parity_images(entry)] == [(64, 64)] * 10
    assert any(line.startswith("without the transformer: ") for line in lines)


def test_training_repeats(one_thread):
    torch.set_num_threads(1)
    ink = Ink.of(digits.training_split()[:50])
    first, second = (
        stn_digits.fit(ink, report=lambda _: None, steps=2, classifier_channels=(4, 4)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_few_digits_can_be_learnt_with_no_word_of_where_they_are(one_thread, monkeypatch):
    monkeypatch.setattr(stn_digits, "BATCH", 32)
    monkeypatch.setattr(stn_digits, "EMA_DECAY", 0.8)
    torch.set_num_threads(1)
    ink = Ink.of(digits.training_split()[:10])
    losses = []
    network = stn_digits.fit(
        ink, report=lambda line: losses.append(float(line.split()[-1])), steps=60, num_transformers=1
    )
    canvases = stn_canvases.draw(ink, 100, torch.Generator().manual_seed(1), distortion=0)
    # Guessing gives 0.1; how far 60 steps get depends on how a processor rounds.
    assert stn_digits.measure(network, canvases).accuracy > 0.3


def test_the_bundled_model_reads_held_out_canvases_as_its_card_says():
    entry = Catalog().find("stn-digits")
    accuracy, plain, ratio = (figure.value for figure in entry.card.quality)
    measured = stn_digits.measure(load(entry), stn_canvases.held_out())
    assert measured.accuracy == pytest.approx(accuracy, abs=0.002)
    assert measured.accuracy >= 0.95
    assert ratio == pytest.approx((1 - accuracy) / (1 - plain), abs=1e-5)
    assert ratio <= 0.6
    assert measured.confusion.sum() == len(stn_canvases.held_out().targets)
    assert entry.card.arguments == stn_digits.ARGUMENTS
