import numpy as np
import pytest

from models.catalog import Catalog
from models.recipes import digits, transfer


def of(indices):
    return sorted(set(digits.targets()[indices].tolist()))


def test_each_draw_has_twenty_training_examples_of_every_new_digit_and_no_other():
    first, again, other = transfer.draw_examples(0), transfer.draw_examples(0), transfer.draw_examples(1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for drawn in (first, other):
        assert np.bincount(digits.targets()[drawn], minlength=10).tolist() == [0] * 7 + [20] * 3
        assert set(drawn) <= set(digits.training_split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, seen, fit = tmp_path_factory.mktemp("transfer"), [], transfer._fit

    def watched(inputs, indices, epochs):
        seen.append(indices)
        return fit(inputs, indices, epochs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer, "_fit", watched)
        accuracy = transfer.train_base(folder / "models", epochs=1)
    assert accuracy > 0.5
    assert of(seen[0]) == list(range(7))
    assert set(seen[0]) <= set(digits.training_split())
    held_out = digits.test_split()
    transfer.write_digits(folder / "held-out", held_out[digits.targets()[held_out] >= 7])
    return folder


@pytest.mark.parametrize("mode", transfer.MODES)
def test_frozen_features_of_other_digits_tell_the_new_ones_apart(folder, mode):
    made = transfer.transfer(folder, mode, 0)
    measured = made.measured[0]
    assert (measured.name, measured.num_images) == ("test", 107)
    # After one epoch of the base; the recipe's fifteen are for the figure that is shown.
    assert measured.accuracy > 0.8
    assert made.counts == {"7": 20, "8": 20, "9": 20}
    assert made.num_training == 48
    assert made.entry.card.labels == ["7", "8", "9"]
    assert made.skipped == []


def test_the_base_is_a_model_that_names_what_it_knows(folder):
    card = Catalog(folder / "models").find(transfer.BASE).card
    assert card.labels == [str(digit) for digit in range(7)]
    assert card.network == "models.recipes.transfer:DigitNet"
