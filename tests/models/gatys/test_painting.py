"""Paintings: the loss falls, the best is kept, and every choice of the plan does what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.gatys import Encoder, Objective, Painting, Plan, Style, Weights
from models.gatys import painting as painting_module
from models.gatys import tiles as tiling
from models.gatys.canvas import Canvas
from models.gatys.descent import MAX_SHRINKS, SHRINK, Descent

from .conftest import noise

LAYERS: dict[str, Any] = {"content_layers": {"relu2_1": 1.0}, "style_layers": {"relu1_1": 1.0, "relu2_1": 1.0}}
YIQ_CHROMA = torch.tensor([[0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def painted(
    encoder: Encoder, content: Tensor, styles: list[Style], *, max_pixels: int = 10**9, weights: Weights | None = None,
    **plan: Any,
) -> Painting:  # fmt: skip
    weights = weights or Weights(tv=0.1, **LAYERS)
    painting = Painting(
        Objective(encoder, weights, max_pixels=max_pixels), content, styles, Plan(**{"steps": 25, **plan})
    )
    for _ in painting.run():
        pass
    return painting


def totals(painting: Painting) -> list[float]:
    return [evaluated.terms.total for evaluated in painting.history]


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("init", ["content", "noise"])
def test_the_loss_falls(encoder: Encoder, content: Tensor, style: Tensor, optimizer: str, init: str) -> None:
    painting = painted(encoder, content, [Style(style)], optimizer=optimizer, init=init)
    assert painting.best is not None
    assert painting.best.terms.total == min(totals(painting))
    assert painting.best.terms.total < 0.5 * totals(painting)[0]
    assert [evaluated.step for evaluated in painting.history] == list(range(26))


def test_from_the_content_the_first_evaluation_is_of_the_content(
    encoder: Encoder, content: Tensor, style: Tensor
) -> None:
    painting = painted(encoder, content, [Style(style)], steps=0)
    assert painting.history[0].terms.content == pytest.approx(0, abs=1e-9)
    expected = (content[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(painting.picture(), expected)


def test_the_same_seed_paints_the_same_and_another_another(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    first, again, other = (
        painted(encoder, content, [Style(style)], steps=4, init="noise", seed=seed).picture() for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_tiles_paint_the_same_picture(
    encoder: Encoder, content: Tensor, style: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "MIN_INNER_PX", 8)
    whole = painted(encoder, content, [Style(style)], steps=6)
    tiled = painted(encoder, content, [Style(style)], steps=6, max_pixels=300)
    assert totals(tiled) == pytest.approx(totals(whole), rel=1e-3)
    assert np.abs(tiled.picture().astype(int) - whole.picture()).max() <= 2


def test_each_tile_is_a_step_of_its_own(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    objective = Objective(encoder, Weights(**LAYERS), max_pixels=10**9)
    steps = list(Painting(objective, content, [Style(style)], Plan(steps=2)).run())
    # One for the style, one for the content, three evaluations.
    assert [step is None for step in steps] == [True, True, False, False, False]


def test_two_equal_styles_are_one_and_weights_are_relative(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    one = painted(encoder, content, [Style(style, 1.0)], steps=5)
    two = painted(encoder, content, [Style(style, 2.0), Style(style, 6.0)], steps=5)
    assert totals(two) == pytest.approx(totals(one), rel=1e-3)


def test_the_heavier_style_wins(encoder: Encoder, content: Tensor) -> None:
    dark, bright = torch.full((1, 3, 16, 16), 0.1), torch.full((1, 3, 16, 16), 0.9)
    weights = Weights(content=0.0, tv=0.0, **LAYERS)
    means = [
        float(
            painted(encoder, content, [Style(dark, 1 - share), Style(bright, share)], weights=weights).picture().mean()
        )
        for share in (0.05, 0.5, 0.95)
    ]
    assert means == sorted(means)
    assert means[2] - means[0] > 40


def test_luminance_alone_leaves_the_contents_chroma(encoder: Encoder, style: Tensor) -> None:
    content = 0.4 + 0.2 * noise(8, (20, 28))
    picture = painted(encoder, content, [Style(style)], steps=8, preserve_colour="luminance").picture()
    made = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    inside = ((made > 0) & (made < 1)).all(dim=1, keepdim=True).expand(-1, 2, -1, -1)
    before, after = (torch.einsum("yc,nchw->nyhw", YIQ_CHROMA, image) for image in (content, made))
    assert float(inside.float().mean()) > 0.5
    assert float((before - after)[inside].abs().max()) < 0.01
    assert float((made - content).abs().mean()) > 0.003


def test_histogram_paints_in_the_contents_colours(encoder: Encoder, content: Tensor) -> None:
    reddish = 0.35 + 0.2 * noise(9, (20, 28)) + torch.tensor([0.25, 0.0, -0.1]).view(1, 3, 1, 1)
    blue = 0.2 + 0.2 * noise(10, (20, 28)) + torch.tensor([-0.1, 0.0, 0.5]).view(1, 3, 1, 1)
    weights = Weights(content=0.0, tv=0.0, **LAYERS)

    def reds(preserve_colour: str) -> float:
        picture = painted(encoder, reddish, [Style(blue)], weights=weights, preserve_colour=preserve_colour).picture()
        return float(picture[..., 0].mean()) - float(picture[..., 2].mean())

    assert reds("histogram") > 60 > 0 > reds("no")


def test_a_weight_on_the_total_variation_smooths(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    rough, smooth = (
        painted(encoder, content, [Style(style)], weights=Weights(tv=tv, **LAYERS)).picture().astype(int)
        for tv in (0.0, 20.0)
    )
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.8 * np.abs(np.diff(rough, axis=1)).mean()


def test_a_heavier_content_stays_nearer_to_it(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    near, far = (
        painted(encoder, content, [Style(style)], weights=Weights(content=weight, tv=0.0, **LAYERS)).best
        for weight in (1000.0, 1.0)
    )
    assert near is not None
    assert far is not None
    assert near.terms.content / 1000 < 0.5 * far.terms.content


def test_it_ends_when_nothing_is_left_to_gain(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    weights = Weights(content=0.0, style=0.0001, tv=100.0, **LAYERS)
    painting = painted(encoder, content, [Style(style)], weights=weights, steps=3000)
    assert painting.converged
    assert painting_module.PATIENCE < len(painting.history) < 3000


def test_it_ends_at_once_where_there_is_no_loss(encoder: Encoder, content: Tensor) -> None:
    painting = painted(encoder, content, [Style(content)], weights=Weights(tv=0.0, **LAYERS), steps=500)
    assert painting.converged
    assert len(painting.history) == 1


def test_a_wild_step_size_is_tamed(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    painting = painted(encoder, content, [Style(style)], learning_rate=50.0, steps=60)
    assert painting.best is not None
    assert painting.best.terms.total < 0.5 * totals(painting)[0]


def test_the_learning_rate_is_used(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    slow, fast = (
        painted(encoder, content, [Style(style)], optimizer="adam", steps=3, learning_rate=rate)
        for rate in (1e-4, 0.02)
    )
    assert totals(fast)[-1] < totals(slow)[-1] < totals(slow)[0]


def test_there_is_no_picture_before_the_first_evaluation(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    objective = Objective(encoder, Weights(**LAYERS), max_pixels=10**9)
    with pytest.raises(RuntimeError, match="nothing was painted"):
        Painting(objective, content, [Style(style)], Plan()).picture()


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_step_too_far_is_shortened_and_at_last_taken_back(optimizer: Any) -> None:
    canvas = Canvas(torch.full((1, 3, 8, 8), 0.5))
    descent = Descent(canvas, optimizer, 0.1)
    first = canvas.image()
    descent.move(first, torch.ones_like(first), 1.0)
    far = [float((canvas.image() - first).detach().abs().max())]
    for _ in range(MAX_SHRINKS + 1):
        image = canvas.image()
        descent.move(image, torch.ones_like(image), 9.0)
        far.append(float((canvas.image() - first).detach().abs().max()))
    assert far[0] > 0
    assert far[1] == pytest.approx(SHRINK * far[0], rel=1e-3)
    assert far == sorted(far, reverse=True)
    assert far[-1] == 0


@pytest.mark.parametrize("size_hw", [(8, 8), (7, 9), (16, 5)])
def test_a_canvas_begins_as_it_is_told_and_reaches_any_picture(size_hw: tuple[int, int]) -> None:
    start, goal = noise(1, size_hw), noise(2, size_hw)
    canvas = Canvas(start)
    assert torch.equal(canvas.image().detach(), start)
    optimizer = torch.optim.LBFGS([canvas.variable], max_iter=200)

    def far() -> Tensor:
        optimizer.zero_grad()
        loss = (canvas.image() - goal).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(far)  # type: ignore[arg-type]
    assert torch.allclose(canvas.image().detach(), goal, atol=1e-2)
