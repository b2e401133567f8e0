"""What stays of the content's colours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.gatys import colour

from .conftest import noise

TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def yiq(picture: Tensor) -> Tensor:
    return torch.einsum("yc,nchw->nyhw", TO_YIQ, picture)


def test_luminance_is_the_y_of_yiq() -> None:
    picture = noise(1, (5, 6))
    assert torch.allclose(colour.luminance(picture), yiq(picture)[:, :1], atol=1e-6)


def test_exchanging_the_luminance_leaves_the_chroma() -> None:
    picture = 0.4 + 0.2 * noise(1, (9, 8))
    wanted = 0.45 + 0.1 * noise(2, (9, 8))[:, :1]
    changed = yiq(colour.with_luminance(picture, wanted))
    assert torch.allclose(changed[:, :1], wanted, atol=1e-5)
    assert torch.allclose(changed[:, 1:], yiq(picture)[:, 1:], atol=1e-5)


def test_a_styles_luminance_takes_the_contents_mean_and_spread() -> None:
    style, content = noise(3, (30, 20)).square(), 0.4 + 0.2 * noise(4, (12, 14))
    matched, wanted = colour.match_luminance(style, content), colour.luminance(content)
    assert float(matched.mean()) == pytest.approx(float(wanted.mean()), abs=1e-3)
    assert float(matched.std(correction=0)) == pytest.approx(float(wanted.std(correction=0)), rel=0.02)


def test_a_styles_colours_take_the_contents_mean_and_covariance() -> None:
    mix = torch.tensor([[0.3, 0.1, 0.0], [0.1, 0.2, 0.1], [0.0, 0.0, 0.2]])
    content = 0.3 + torch.einsum("dc,nchw->ndhw", mix, noise(5, (40, 40)))
    style = noise(6, (50, 30))
    matched = colour.match_colours(style, content)
    assert matched.shape == style.shape
    got, wanted = matched[0].flatten(1), content[0].flatten(1)
    assert torch.allclose(got.mean(1), wanted.mean(1), atol=5e-3)
    assert torch.allclose(torch.cov(got), torch.cov(wanted), atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_pictures_of_one_colour_break_nothing(level: float) -> None:
    flat, other = torch.full((1, 3, 8, 8), level), noise(7, (8, 8))
    for style, content in ((flat, other), (other, flat), (flat, flat)):
        for matched in (colour.match_colours(style, content), colour.match_luminance(style, content)):
            assert bool(matched.isfinite().all())
            assert 0 <= float(matched.min()) <= float(matched.max()) <= 1
