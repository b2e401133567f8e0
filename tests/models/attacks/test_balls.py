"""Changes in whole levels never exceed their norm, and no gradient is no step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.attacks import NORMS

EPSILONS = [1e-9, 0.5 / 255, 1 / 255, 8 / 255, 0.0999, 0.3, 1.0]


@pytest.mark.parametrize("epsilon", [*EPSILONS, *(levels / 255 for levels in range(1, 256))])
def test_the_limit_of_linf_is_the_last_whole_level_that_fits(epsilon):
    ball = NORMS["linf"]
    limit = ball.limit(epsilon)
    assert ball.norm(limit) <= epsilon < ball.norm(limit + 1)


@pytest.mark.parametrize("epsilon", [*EPSILONS, 3.7, 55.5])
def test_the_limit_of_l2_is_the_last_sum_of_squares_that_fits(epsilon):
    ball = NORMS["l2"]
    limit = ball.limit(epsilon)
    assert ball.norm(limit) <= epsilon < ball.norm(limit + 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_beyond_any_picture_is_no_error(norm):
    assert NORMS[norm].limit(1e300) > 255


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.5 / 255, 1.5 / 255, 8 / 255, 0.5, 2.0])
def test_rounded_pictures_stay_within_the_limit_and_between_black_and_white(norm, epsilon):
    ball, random = NORMS[norm], torch.Generator().manual_seed(0)
    origin = torch.randint(0, 256, (3, 9, 11), generator=random).float()
    noise = torch.stack([ball.noise((3, 9, 11), random) for _ in range(8)])
    radius = torch.full((8,), ball.radius(epsilon))
    change = ball.project(3 * noise * ball.radius(epsilon), radius)
    change = (origin + change).clamp(0, 255) - origin
    limit = torch.full((8,), ball.limit(epsilon), dtype=torch.float64)
    levels = ball.rounded(origin, change, ball.extents(change, limit))
    assert torch.equal(levels, levels.round())
    assert levels.min() >= 0
    assert levels.max() <= 255
    for picture in levels:
        assert ball.norm(ball.size((picture - origin).numpy().astype(np.int64))) <= epsilon


def test_a_small_change_spread_over_many_pixels_survives_rounding_in_l2():
    origin, change = torch.full((3, 40, 40), 128.0), torch.linspace(0.2, 0.45, 4800).view(1, 3, 40, 40)
    ball = NORMS["l2"]
    length = float(change.norm())
    levels = ball.rounded(origin, change, ball.extents(change, torch.tensor([10.0**6], dtype=torch.float64)))
    # Each value by itself would be rounded away; the largest of them take the whole length instead.
    assert bool((change.round() == 0).all())
    assert 0.99 * length <= float((levels - origin).norm()) <= length
    assert bool(((levels - origin)[0].flatten().diff() >= 0).all())


def test_a_change_that_holds_its_length_exactly_is_not_shortened():
    change = torch.zeros(1, 1, 3, 3)
    change[0, 0, 0] = torch.tensor([3.0, -2.0, 1.0])
    limit = torch.tensor([14.0], dtype=torch.float64)
    assert torch.equal(NORMS["l2"].rounded(torch.full((1, 3, 3), 9.0), change, limit) - 9, change)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_fills_the_ball_of_radius_one(norm):
    ball, random = NORMS[norm], torch.Generator().manual_seed(1)
    drawn = torch.stack([ball.noise((1, 1, 2), random) for _ in range(2000)]).flatten(1)
    size_N = drawn.abs().amax(1) if norm == "linf" else drawn.norm(dim=1)
    assert float(size_N.max()) <= 1 + 1e-6
    # Both are discs of two dimensions: a quarter of the area lies within half the radius.
    assert float((size_N < 0.5).double().mean()) == pytest.approx(0.25, abs=0.04)
    assert drawn.mean(0).abs().max() < 0.05


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_steepest_change_has_norm_one_or_is_none(norm):
    gradient = torch.stack([torch.full((1, 2, 2), 1e-30), torch.zeros(1, 2, 2), torch.full((1, 2, 2), -7.0)])
    first, none, last = NORMS[norm].steepest(gradient)
    side = 1.0 if norm == "linf" else 0.5
    assert torch.allclose(first, torch.full((1, 2, 2), side))
    assert not none.any()
    assert torch.allclose(last, torch.full((1, 2, 2), -side))
