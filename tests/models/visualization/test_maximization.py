"""Climbing: higher, valid, smooth, repeatable, and each unit by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import UnsupportedOption
from models.visualization import Ascent, Maps, Plan, Regularizers, Survey
from models.visualization.maximization import tv_gradient

PLAN = Plan(size_hw=(32, 32), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), steps=24)
CPU = torch.device("cpu")


def climbed(survey: Survey, layer: str, channels: list[int], **changed: Any) -> Ascent:
    ascent = Ascent(survey, layer, channels, replace(PLAN, **changed), CPU)
    for _ in range(ascent.plan.steps):
        ascent.step()
    ascent.measure()
    return ascent


def strengths(survey: Survey, layer: str, channels: list[int], pixels: Tensor) -> list[float]:
    mean, std = torch.tensor(PLAN.mean).view(1, 3, 1, 1), torch.tensor(PLAN.std).view(1, 3, 1, 1)
    maps = Maps(survey, [layer])((pixels - mean) / std)[layer]
    return [float(maps[index, channel].amax()) for index, channel in enumerate(channels)]


@pytest.mark.parametrize("layer", ["1", "6", "9"])
def test_pictures_excite_their_units_more_and_stay_pictures(survey: Survey, layer: str) -> None:
    channels = [0, 1, 4]
    before = Ascent(survey, layer, channels, PLAN, CPU).pixels_NCHW
    ascent = climbed(survey, layer, channels)
    after = [unit.activation for unit in ascent.peaks]
    assert after == pytest.approx(strengths(survey, layer, channels, ascent.pixels_NCHW))
    assert all(new > old for new, old in zip(after, strengths(survey, layer, channels, before), strict=True))
    assert 0 <= float(ascent.pixels_NCHW.min()) <= float(ascent.pixels_NCHW.max()) <= 1
    assert ascent.pixels_NCHW.std() > 0.02


def test_each_unit_climbs_as_if_alone_and_the_seed_decides(survey: Survey) -> None:
    together = climbed(survey, "6", [2, 5])
    torch.testing.assert_close(climbed(survey, "6", [5]).pixels_NCHW[0], together.pixels_NCHW[1], rtol=0, atol=1e-4)
    assert torch.equal(climbed(survey, "6", [2, 5]).pixels_NCHW, together.pixels_NCHW)
    other = climbed(survey, "6", [2, 5], seed=1).pixels_NCHW
    assert (other - together.pixels_NCHW).abs().mean() > 0.01


def test_a_climb_of_any_length_keeps_what_its_plan_says(survey: Survey) -> None:
    ascent = Ascent(survey, "6", [0, 2, 5], replace(PLAN, steps=10**12), CPU)
    ascent.step()
    ascent.step()
    assert ascent._velocity_NCHW is not None
    states = [random.get_state() for random in ascent._random]
    kept = sum(held.nbytes for held in (ascent.pixels_NCHW, ascent._velocity_NCHW, *states))
    assert kept == 3 * ascent.plan.unit_bytes


def test_a_climb_that_has_ended_has_its_pictures_begun_or_not(survey: Survey) -> None:
    begun, waiting = (Ascent(survey, "6", [2, 5], PLAN, CPU) for _ in range(2))
    start = waiting.pixels_NCHW.clone()
    fresh = Ascent(survey, "6", [2, 5], PLAN, CPU)
    begun.step()
    moved = begun.pixels_NCHW.clone()
    for ascent in (begun, fresh):
        ascent.settle()
    assert torch.equal(begun.pixels_NCHW, moved)
    assert torch.equal(fresh.pixels_NCHW, start)


@pytest.mark.parametrize("stronger", [Regularizers(tv=2.0), Regularizers(blur_every=1, blur_sigma_px=2.0)])
def test_regularizers_make_pictures_smoother(survey: Survey, stronger: Regularizers) -> None:
    def roughness(chosen: Regularizers) -> float:
        return float(climbed(survey, "6", [1], regularizers=chosen).pixels_NCHW.diff(dim=3).abs().mean())

    assert roughness(stronger) < 0.8 * roughness(Regularizers(tv=0, blur_every=0))


def test_decay_draws_pictures_to_the_mean_colour(survey: Survey) -> None:
    def distance(l2: float) -> float:
        pixels = climbed(survey, "9", [1], regularizers=Regularizers(l2=l2)).pixels_NCHW
        return float((pixels - torch.tensor(PLAN.mean).view(1, 3, 1, 1)).abs().mean())

    assert distance(5.0) < 0.8 * distance(0.0)


def test_a_unit_at_rest_everywhere_is_woken(survey: Survey) -> None:
    dark = replace(PLAN, mean=(0.0, 0.0, 0.0))
    ascent = Ascent(survey, "7", [3], dark, CPU)
    before = ascent.pixels_NCHW.clone()
    ascent.step()
    assert not torch.equal(ascent.pixels_NCHW, before)


def test_a_size_that_the_network_cannot_take_is_told(survey: Survey) -> None:
    with pytest.raises(UnsupportedOption, match="size_px unset for 32x32"):
        Ascent(survey, "9", [0], replace(PLAN, size_hw=(48, 48)), CPU).step()


def test_the_total_variation_has_the_gradient_of_its_definition() -> None:
    x = torch.rand(1, 2, 5, 6, dtype=torch.float64)

    def variation(values: Tensor) -> Tensor:
        down, right = values.diff(dim=2)[..., :-1], values.diff(dim=3)[:, :, :-1]
        return (down.square() + right.square() + 1e-6).sqrt().sum()

    step = torch.zeros_like(x)
    step[0, 1, 2, 3] = 1e-6
    slope = float(variation(x + step) - variation(x - step)) / 2e-6
    assert float(tv_gradient(x)[0, 1, 2, 3]) == pytest.approx(slope, rel=1e-4)
