"""Deletion and insertion on a classifier whose evidence sits in a known patch."""

import numpy as np
import pytest
import torch
from torch import nn

from models.attribution import Question, Settings
from models.attribution.curves import Curve, CurveTest, blurred, coarse_to_fine, ranks

SIDE, PATCH = 16, 4
NUM_PIXELS, NUM_EVIDENCE = SIDE * SIDE, PATCH * PATCH


class Evidence(nn.Module):
    """The probability of class 1 is the part of a patch's pixels that are bright."""

    def forward(self, x_NCHW):
        share_N = x_NCHW[:, 0, 2 : 2 + PATCH, 8 : 8 + PATCH].mean(dim=(1, 2)).clamp(1e-6, 1 - 1e-6)
        return torch.stack([torch.zeros_like(share_N), torch.logit(share_N)], dim=1)


@pytest.fixture
def question():
    x_1CHW = torch.ones(1, 1, SIDE, SIDE)
    return Question(Evidence(), x_1CHW, 1, torch.zeros_like(x_1CHW), torch.zeros(1), torch.ones(1))


def attribution(value):
    attribution_HW = np.zeros((SIDE, SIDE), np.float32)
    attribution_HW[2 : 2 + PATCH, 8 : 8 + PATCH] = value
    return attribution_HW


def measured(question, attribution_HW, **options):
    test = CurveTest(question, Settings(max_batch=8, step_s=1.0), attribution_HW, **options)
    list(test.steps())
    return test.best()


SHARE = NUM_EVIDENCE / NUM_PIXELS


@pytest.mark.parametrize(
    ("value", "deletion", "insertion"),
    [(1.0, SHARE / 2, 1 - SHARE / 2), (-1.0, 1 - SHARE / 2, SHARE / 2)],
    ids=["the evidence first", "the evidence last"],
)
def test_areas_are_those_that_arithmetic_gives(question, value, deletion, insertion):
    curves = measured(question, attribution(value), num_points=NUM_PIXELS + 1)
    assert curves.deletion.auc == pytest.approx(deletion, abs=1e-4)
    assert curves.insertion.auc == pytest.approx(insertion, abs=1e-4)


def test_a_map_of_one_value_is_a_random_order(question):
    curves = measured(question, np.zeros((SIDE, SIDE), np.float32))
    assert curves.deletion.auc == pytest.approx(0.5, abs=0.15)
    assert curves.insertion.auc == pytest.approx(1 - curves.deletion.auc, abs=1e-6)


def test_curves_begin_and_end_where_they_must(question):
    curves = measured(question, attribution(1.0), num_points=7)
    for curve, first, last in ((curves.deletion, 1, 0), (curves.insertion, 0, 1)):
        assert (curve.fractions[0], curve.fractions[-1]) == (0, 1)
        assert len(curve.fractions) == 7
        assert (curve.scores[0], curve.scores[-1]) == pytest.approx((first, last), abs=1e-4)


def test_more_points_than_pixels_are_as_many_as_there_are(question):
    assert len(measured(question, attribution(1.0), num_points=1000).deletion.fractions) == NUM_PIXELS + 1


def test_insertion_starts_from_what_it_is_told(question):
    start_1CHW = torch.full((1, 1, SIDE, SIDE), 0.25)
    curves = measured(question, attribution(1.0), start_1CHW=start_1CHW)
    assert curves.insertion.scores[0] == pytest.approx(0.25, abs=1e-4)
    assert curves.deletion.scores[-1] == pytest.approx(0, abs=1e-4)


def test_stopped_early_there_are_fewer_points_spread_over_the_whole(question):
    test = CurveTest(question, Settings(max_batch=4, step_s=1.0), attribution(1.0), num_points=50)
    assert not test.has_estimate
    for done, total in test.steps():
        assert total == 100
        if done >= 20:
            break
    assert test.has_estimate
    curve = test.best().deletion
    assert 9 <= len(curve.fractions) <= 14
    assert np.diff(curve.fractions).max() <= 0.26
    assert curve.auc == pytest.approx(SHARE / 2, abs=0.12)


def test_the_quick_network_answers(question):
    calls = []

    def forward(x_NCHW):
        calls.append(len(x_NCHW))
        return question.classifier(x_NCHW)

    measured(Question(**{**vars(question), "forward": forward}), attribution(1.0), num_points=10)
    assert sum(calls) == 20
    assert max(calls) <= 8


def test_ranks_go_from_the_largest_and_break_ties_by_the_seed():
    values = np.array([[1, 3, 2], [1, 1, 1]], np.float32)
    assert list(ranks(values, seed=0)[[1, 2]]) == [0, 1]
    assert sorted(ranks(values, seed=0)) == list(range(6))
    assert list(ranks(values, seed=0)) == list(ranks(values, seed=0))
    assert len({tuple(ranks(values, seed=seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize("number", [2, 3, 50, 101])
def test_coarse_to_fine_takes_every_point_once_and_the_ends_first(number):
    order = coarse_to_fine(number)
    assert sorted(order) == list(range(number))
    assert order[:2] == [0, number - 1]


def test_a_blur_keeps_the_mean_and_takes_the_detail(question):
    random = torch.Generator().manual_seed(0)
    noisy = Question(**{**vars(question), "x_1CHW": torch.randn(1, 3, 40, 40, generator=random)})
    made = blurred(noisy.x_1CHW)
    assert made.shape == noisy.x_1CHW.shape
    assert float(made.std()) < 0.1
    assert float(made.mean()) == pytest.approx(float(noisy.x_1CHW.mean()), abs=0.05)


def test_an_area_is_that_of_trapezoids():
    assert Curve(np.array([0, 0.5, 1]), np.array([1, 0.5, 0.5])).auc == pytest.approx(0.375 + 0.25)
