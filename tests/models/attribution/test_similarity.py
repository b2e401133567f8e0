"""How alike two maps are: known answers."""

import numpy as np
import pytest

from models.attribution.similarity import rank_correlation, shown, similarity, structural_similarity

RANDOM = np.random.default_rng(0)
MAP = RANDOM.normal(size=(32, 24)).astype(np.float32)


def test_a_map_is_like_itself():
    assert similarity(MAP, MAP) == pytest.approx((1, 1, 1))


def test_ranks_do_not_mind_a_rising_function():
    assert rank_correlation(MAP, np.exp(3 * MAP)) == pytest.approx(1)


def test_a_map_turned_around_has_the_same_absolute_values():
    alike = similarity(MAP, -MAP)
    assert alike.rank_correlation == pytest.approx(-1)
    assert alike.rank_correlation_abs == pytest.approx(1)


def test_unrelated_maps_are_unlike():
    alike = similarity(MAP, RANDOM.normal(size=MAP.shape))
    assert np.abs(alike).max() < 0.15


def test_the_correlation_is_that_of_the_ranks():
    # 1 - 6 * sum of squared rank differences / (n * (n^2 - 1)): 1 - 6 * 2 / 60.
    assert rank_correlation(np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 3], [2, 4]])) == pytest.approx(0.8)


@pytest.mark.parametrize("other", [np.zeros_like(MAP), np.full_like(MAP, 2.5), np.full_like(MAP, np.nan)])
def test_a_map_that_says_nothing_is_like_no_other(other):
    assert similarity(MAP, other) == (0, 0, 0)


def test_a_scale_changes_nothing():
    other = MAP + RANDOM.normal(size=MAP.shape)
    assert similarity(MAP, other) == pytest.approx(similarity(100 * MAP, other / 7))


def test_maps_smaller_than_ssims_window_are_compared():
    assert structural_similarity(MAP[:4, :5], MAP[:4, :5]) == pytest.approx(1)


def test_a_map_of_a_few_pixels_other_than_zero_is_shown():
    values = np.zeros((100, 100))
    values[3, 4], values[5, 6] = -2, 1
    assert shown(values)[3, 4] == -1
    assert shown(values)[5, 6] == pytest.approx(0.5)
