"""Loss and gradient, whole and in tiles, against plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from models.errors import UnknownLayer
from models.gatys import Encoder, Objective, Terms, Weights
from models.gatys import tiles as tiling
from models.gatys.losses import total_variation

from .conftest import noise

WEIGHTS = Weights(
    content=2.0, style=30.0, tv=0.5, content_layers={"relu2_1": 1.0}, style_layers={"relu1_1": 1.0, "relu2_1": 3.0}
)


def drained(steps: Any) -> tuple[Any, int]:
    """Run a generator to its end; gives what it returned and how often it yielded."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


def evaluated(
    encoder: Encoder,
    content: Tensor,
    style: Tensor,
    image: Tensor,
    *,
    max_pixels: int = 10**9,
    weights: Weights = WEIGHTS,
) -> tuple[Terms, Tensor, int]:
    objective = Objective(encoder, weights, max_pixels=max_pixels)
    drained(objective.add_style(style, 1.0))
    drained(objective.set_content(content))
    leaf = image.clone().requires_grad_()
    terms, count = drained(objective.evaluate(leaf))
    assert leaf.grad is not None
    return terms, leaf.grad, count


def test_loss_and_gradient_are_those_of_the_formulas(encoder: Encoder, content: Tensor, style: Tensor) -> None:
    image = noise(3, (20, 28)).requires_grad_()
    layers = {"relu1_1", "relu2_1"}
    seen, wanted, kept = encoder(image, layers), encoder(style, layers), encoder(content, layers)

    def mean_gram(features: Tensor) -> Tensor:
        return torch.einsum("ncij,ndij->cd", features, features) / (features.shape[2] * features.shape[3])

    style_term = torch.zeros(())
    for name, share in {"relu1_1": 0.25, "relu2_1": 0.75}.items():
        target = mean_gram(wanted[name])
        style_term = style_term + 30 * share * (mean_gram(seen[name]) - target).pow(2).sum() / target.pow(2).sum()
    content_term = 2 * (seen["relu2_1"] - kept["relu2_1"]).pow(2).mean() / kept["relu2_1"].pow(2).mean()
    tv_term = 0.5 * total_variation(image)
    (gradient,) = torch.autograd.grad(style_term + content_term + tv_term, image)

    terms, told, _ = evaluated(encoder, content, style, image.detach())
    assert terms.style == pytest.approx(float(style_term.detach()), rel=1e-4)
    assert terms.content == pytest.approx(float(content_term.detach()), rel=1e-4)
    assert terms.tv == pytest.approx(float(tv_term.detach()), rel=1e-4)
    assert torch.allclose(told, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("size_hw", [(70, 91), (64, 64), (33, 130)], ids=["odd", "even", "thin"])
def test_tiles_give_the_loss_and_the_gradient_of_the_whole(
    encoder: Encoder, style: Tensor, size_hw: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "MIN_INNER_PX", 16)
    content, image = noise(4, size_hw), noise(5, size_hw)
    whole_terms, whole, _ = evaluated(encoder, content, style, image)
    terms, gradient, count = evaluated(encoder, content, style, image, max_pixels=900)
    assert count > 4
    assert (terms.content, terms.style, terms.tv) == pytest.approx(
        (whole_terms.content, whole_terms.style, whole_terms.tv), rel=1e-4
    )
    assert torch.allclose(gradient, whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "zero"),
    [({"content": 0.0}, "content"), ({"style": 0.0}, "style"), ({"tv": 0.0}, "tv")],
    ids=["no_content", "no_style", "no_tv"],
)
@pytest.mark.parametrize("max_pixels", [10**9, 400], ids=["whole", "tiled"])
def test_any_term_may_be_left_out(
    encoder: Encoder, content: Tensor, style: Tensor, changed: dict[str, float], zero: str, max_pixels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tiling, "MIN_INNER_PX", 8)
    table = {"content": 2.0, "style": 30.0, "tv": 0.5} | changed
    weights = Weights(**table, content_layers=WEIGHTS.content_layers, style_layers=WEIGHTS.style_layers)
    terms, _, _ = evaluated(encoder, content, style, noise(3, (20, 28)), weights=weights, max_pixels=max_pixels)
    left = {name: getattr(terms, name) for name in ("content", "style", "tv")}
    assert left.pop(zero) == 0
    assert min(left.values()) > 0


def test_the_content_itself_has_no_content_loss_and_a_style_no_style_loss(encoder: Encoder, style: Tensor) -> None:
    terms, _, _ = evaluated(encoder, style, style, style)
    assert terms.content == pytest.approx(0, abs=1e-9)
    assert terms.style == pytest.approx(0, abs=1e-6)


def test_layers_that_the_encoder_lacks_are_refused(encoder: Encoder) -> None:
    with pytest.raises(UnknownLayer, match="relu7_1"):
        Objective(encoder, Weights(content_layers={"relu7_1": 1.0}, style_layers={"relu1_1": 1.0}), max_pixels=100)


def test_cost_counts_margins_and_the_second_pass(encoder: Encoder) -> None:
    small = Objective(encoder, WEIGHTS, max_pixels=10**6)
    assert small.cost_pixels((100, 200)) == 20_000
    tiled = Objective(encoder, WEIGHTS, max_pixels=2**14)
    assert tiled.cost_pixels((300, 400)) > 4 / 3 * 120_000
