"""Superpixels: numbered without gaps, near the count asked for, along the edges."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from models.attribution.question import Algorithm
from models.attribution.superpixels import cut, levels
from models.errors import UnsupportedOption


def halves() -> np.ndarray[Any, Any]:
    """Red on the left, blue on the right, with a little grain."""
    picture = np.zeros((48, 64, 3))
    picture[:, :32, 0] = picture[:, 32:, 2] = 0.8
    return picture + np.random.default_rng(0).uniform(0, 0.1, picture.shape)


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_pieces_are_numbered_from_zero_and_about_as_many_as_asked(algorithm: Algorithm) -> None:
    segments = cut(halves(), algorithm, count=24, compactness=10)
    assert segments.shape == (48, 64)
    assert sorted(np.unique(segments)) == list(range(segments.max() + 1))
    assert 12 <= segments.max() + 1 <= 48
    assert (cut(halves(), algorithm, count=24, compactness=10) == segments).all()


@pytest.mark.parametrize("algorithm", ["slic", "quickshift", "felzenszwalb"])
def test_pieces_do_not_cross_a_strong_edge(algorithm: Algorithm) -> None:
    segments = cut(halves(), algorithm, count=24, compactness=10)
    assert not set(np.unique(segments[:, :31])) & set(np.unique(segments[:, 33:]))


def test_a_picture_of_one_piece_is_refused() -> None:
    with pytest.raises(UnsupportedOption, match="Use the algorithm 'grid'"):
        cut(np.zeros((16, 16, 3)), "felzenszwalb", count=2, compactness=10)


def test_levels_undo_the_normalisation_and_repeat_grey() -> None:
    x = torch.tensor([[[[-1.0, 3.0]]]])
    found = levels(x, torch.tensor([-1.0]), torch.tensor([3.0]))
    assert found.tolist() == [[[0, 0, 0], [1, 1, 1]]]
