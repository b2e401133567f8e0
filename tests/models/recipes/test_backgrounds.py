import numpy as np
import pytest

from models.recipes import backgrounds

TRAINING = {*backgrounds.TRAINING_PHOTOGRAPHS, *backgrounds.TRAINING_PATTERNS}
HELD_OUT = {*backgrounds.HELD_OUT_PHOTOGRAPHS, *backgrounds.HELD_OUT_PATTERNS}


def test_no_background_is_both_trained_on_and_held_out():
    assert not TRAINING & HELD_OUT


@pytest.mark.parametrize("kind", sorted(TRAINING | HELD_OUT))
def test_a_background_is_textured_in_colour_and_comes_from_its_seed_alone(kind):
    first, again, other = (backgrounds.draw(kind, 96, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert (first.dtype, first.shape) == (np.uint8, (96, 96, 3))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std(axis=(0, 1)).max() > 1
