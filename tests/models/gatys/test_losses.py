"""The terms of the loss, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from models.gatys.losses import TV_SCALE, StyleTarget, Terms, Weights, gram, norm, relative, style_loss, total_variation


def test_a_gram_matrix_sums_the_products_of_channels_over_positions() -> None:
    features = torch.tensor([[[[1.0, 2.0], [0.0, 3.0]], [[4.0, 0.0], [5.0, -1.0]]]])
    assert gram(features).tolist() == [[1 + 4 + 0 + 9, 4 + 0 + 0 - 3], [4 + 0 + 0 - 3, 16 + 0 + 25 + 1]]


def test_a_gram_matrix_forgets_where_things_are() -> None:
    features = torch.rand(1, 3, 4, 5)
    shuffled = features.flatten(2)[:, :, torch.randperm(20)].reshape(features.shape)
    assert torch.allclose(gram(features), gram(shuffled), atol=1e-5)


def test_the_style_loss_is_relative_to_each_target_and_averaged_by_share() -> None:
    grams = {"a": torch.tensor([[2.0]]), "b": torch.tensor([[3.0]])}
    first = StyleTarget({"a": torch.tensor([[1.0]]), "b": torch.tensor([[6.0]])}, share=3)
    second = StyleTarget({"a": torch.tensor([[4.0]]), "b": torch.tensor([[3.0]])}, share=1)
    # Layer a: (2-1)²/1² = 1 and (2-4)²/4² = 1/4. Layer b: (3-6)²/6² = 1/4 and 0.
    by_hand = 0.75 * (0.8 * 1 + 0.2 * 0.25) + 0.25 * (0.8 * 0.25 + 0.2 * 0)
    assert float(style_loss(grams, [first, second], {"a": 0.8, "b": 0.2})) == pytest.approx(by_hand, rel=1e-6)


def test_a_picture_without_features_has_a_style_loss_of_one() -> None:
    target = StyleTarget({"a": torch.rand(4, 4)})
    assert float(style_loss({"a": torch.zeros(4, 4)}, [target], {"a": 1.0})) == pytest.approx(1, rel=1e-5)


def test_a_relative_distance_does_not_depend_on_scale() -> None:
    values, target = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
    ones = relative(values, target, norm(target))
    assert float(relative(9 * values, 9 * target, norm(9 * target))) == pytest.approx(float(ones), rel=1e-5)
    assert float(ones) == pytest.approx(float((values - target).pow(2).sum() / target.pow(2).sum()), rel=1e-5)


def test_the_total_variation_is_the_mean_squared_step_each_way() -> None:
    image = torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 0.5, 1.0]]]])
    right, down = (1 + 0 + 0.25 + 0.25) / 4, (0 + 0.25 + 0) / 3
    assert float(total_variation(image)) == pytest.approx(TV_SCALE * (right + down), rel=1e-6)
    assert float(total_variation(torch.full((1, 3, 4, 4), 0.3))) == 0


def test_weights_of_layers_are_shares_and_a_term_without_weight_needs_none() -> None:
    weights = Weights(content=0.0, content_layers={"c": 1.0}, style_layers={"a": 3.0, "b": 1.0, "off": 0.0})
    assert weights.for_style == {"a": 0.75, "b": 0.25}
    assert weights.for_content == {}


def test_the_total_is_the_sum_of_the_terms() -> None:
    assert Terms(1.5, 20.0, 0.25).total == 21.75
