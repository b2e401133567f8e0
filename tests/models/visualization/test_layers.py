"""Layers and their maps: which there are, which can be looked at, and that nothing overwrites what was taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.errors import ModelError, ModelLoadFailed, UnknownLayer, UnsupportedOption
from models.visualization import Maps, Survey, filters, first_filters, peaks

from .conftest import network


def test_a_survey_knows_channels_shapes_and_the_last_convolution(survey: Survey) -> None:
    assert survey.last() == "6"
    assert survey.layers["3"].shape == (8, 8, 8)
    assert (survey.layers["9"].channels, survey.layers["9"].has_positions) == (5, False)
    assert survey.layers["3"].has_positions


@pytest.mark.parametrize(
    ("layer", "channels", "error", "says"),
    [
        ("seven", (), UnknownLayer, "got 'seven'"),
        ("3", (7, 8, 9), UnsupportedOption, "from 0 to 7, got 8, 9"),
        ("3:input", (), UnknownLayer, "without ':input'"),
    ],
)
def test_what_a_layer_does_not_have_is_told(
    survey: Survey, layer: str, channels: tuple[int, ...], error: type[ModelError], says: str
) -> None:
    with pytest.raises(error, match=says):
        survey.check(layer, channels)


def test_tokens_have_no_channels() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).mT

    found = Survey(nn.Sequential(nn.Conv2d(1, 3, 2), Tokens()), torch.zeros(1, 1, 9, 9))
    with pytest.raises(UnsupportedOption, match=r"\(N, 64, 3\)"):
        found.check("1")


def test_channels_last_become_channels_first() -> None:
    class Last(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.movedim(1, -1)

    found = Survey(nn.Sequential(nn.Conv2d(1, 3, 3), Last()), torch.zeros(1, 1, 10, 10))
    x = torch.randn(2, 1, 10, 10)
    assert found.layers["1"].channels == 3
    maps = Maps(found, ["0", "1"])(x)
    assert torch.equal(maps["0"], maps["1"])


def test_a_network_without_channels_cannot_be_looked_into() -> None:
    with pytest.raises(ModelLoadFailed, match="found none"):
        Survey(nn.Sequential(nn.Flatten(0)), torch.zeros(1, 1, 4, 4))


def test_maps_are_those_before_anything_overwrites_them(survey: Survey, image: Tensor) -> None:
    x = torch.cat([image, -image])
    plain = network(inplace=False)
    maps = Maps(survey, ["3", "4", "9"])(x)
    expected = plain[:4](x)
    assert torch.equal(maps["3"], expected)
    assert torch.equal(maps["4"], expected.relu())
    assert maps["9"].shape == (2, 5, 1, 1)
    assert torch.equal(Maps(survey, ["4"], driven=True)(x)["4"], expected)


def test_a_pass_ends_with_the_last_layer_wanted(image: Tensor) -> None:
    made = network()
    found, ran = Survey(made, image), []
    made[9].register_forward_hook(lambda *_: ran.append("9"))
    Maps(found, ["3"])(image)
    assert not ran


def test_peaks_are_the_strongest_positions_of_the_strongest_channels() -> None:
    maps = torch.zeros(2, 3, 2, 4)
    maps[0, 1, 1, 2], maps[0, 2, 0, 3], maps[1, 0, 1, 0] = 5.0, 7.0, 2.0
    first, second = peaks({"a": maps}, most=2)
    assert [(unit.channel, unit.activation, unit.position_yx) for unit in first] == [(2, 7, (0, 3)), (1, 5, (1, 2))]
    assert second[0].position_yx == (1, 0)
    assert second[1].position_yx is None
    named = peaks({"a": maps}, channels=[1, 0])[0]
    assert [unit.channel for unit in named] == [1, 0]
    assert [unit.channel for unit in peaks({"a": maps}, most=2, selection="first")[0]] == [0, 1]


def test_first_filters_are_those_that_meet_the_pixels(survey: Survey) -> None:
    assert first_filters(survey, (3, 32, 32)) == "0"
    assert filters(survey, "0", (3, 32, 32)).shape == (6, 3, 5, 5)
    flat = Survey(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.zeros(1, 1, 3, 4))
    assert first_filters(flat, (1, 3, 4)) == "1"
    assert filters(flat, "1", (1, 3, 4)).shape == (4, 1, 3, 4)
    with pytest.raises(UnsupportedOption, match="Convolutions are 0, 3, 6"):
        filters(survey, "1", (3, 32, 32))
