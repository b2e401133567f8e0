import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from models.catalog import Catalog
from models.images import Preprocess, decode
from models.loading import load
from models.recipes import digits, lenet_digits


def test_the_split_repeats_keeps_the_parts_apart_and_every_class_in_proportion():
    held_out, training, validation = digits.test_split(), digits.training_split(), digits.validation_split()
    assert np.array_equal(np.sort(np.concatenate([held_out, training])), np.arange(1797))
    assert set(validation) < set(training)
    assert (len(held_out), len(validation)) == (360, 216)
    assert held_out[:5].tolist() == [8, 9, 17, 18, 30]
    counts = np.bincount(digits.targets()[held_out])
    assert counts.min() >= 34


def test_grey_levels_span_the_whole_byte():
    pixels = digits.pixels()
    assert (pixels.dtype, pixels.shape) == (np.uint8, (1797, 8, 8))
    assert (pixels.min(), pixels.max(), len(np.unique(pixels))) == (0, 255, 17)
    np.testing.assert_allclose(pixels, load_digits().images * 255 / 16, atol=0.5)


def _answers(indices, encode):
    entry = Catalog().find("lenet-digits")
    preprocess = Preprocess(entry.card.preprocess)
    files = [encode(Image.fromarray(digits.pixels()[index])) for index in indices]
    images = [decode(data, max_bytes=10_000, max_pixels=10_000).image for data in files]
    with torch.inference_mode():
        logits = load(entry)(torch.stack([preprocess(image) for image in images]))
    return entry, logits.argmax(dim=1).numpy()


def test_held_out_digits_written_as_files_are_told_as_the_card_says(encode):
    held_out = digits.test_split()
    entry, answers = _answers(held_out, encode)
    accuracy = (answers == digits.targets()[held_out]).mean()
    assert accuracy >= 0.985
    assert entry.card.quality[0].value == pytest.approx(accuracy, abs=1e-6)
    assert entry.card.labels == [str(digit) for digit in range(10)]


def test_the_cards_confusion_is_the_one_measured(encode):
    held_out = digits.test_split()
    entry, answers = _answers(held_out, encode)
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (digits.targets()[held_out], answers), 1)
    written = entry.card.provenance.notes.splitlines()[-10:]
    assert np.array_equal(counts, np.array([[int(count) for count in row.split()] for row in written]))


def test_augmentation_keeps_the_background_and_repeats():
    inputs = torch.full((4, 1, 32, 32), -lenet_digits.PREPROCESSING.mean[0] / lenet_digits.PREPROCESSING.std[0])
    moved = lenet_digits.augmented(inputs, torch.Generator().manual_seed(3))
    torch.testing.assert_close(moved, inputs)
    ink = lenet_digits.prepared()[:4]
    first, second = (lenet_digits.augmented(ink, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first, ink, atol=0.5)


def test_a_short_training_learns(monkeypatch, tmp_path):
    monkeypatch.setattr(lenet_digits, "EPOCHS_TRIED", (2, 3))
    threads = torch.get_num_threads()
    lines = []
    try:
        accuracy = lenet_digits.train(tmp_path / "lenet-digits", report=lines.append)
    finally:
        torch.set_num_threads(threads)
    assert accuracy > 0.9
    assert len(lines) == 3
    entry = Catalog(tmp_path).find("lenet-digits")
    assert entry.source == "user"
    assert entry.card.quality[0].value == pytest.approx(accuracy, abs=1e-6)
    assert load(entry)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
