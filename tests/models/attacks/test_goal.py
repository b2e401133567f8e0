"""What an attack wants of the logits, and that it never stands still."""

from __future__ import annotations

import pytest
import torch

from models.attacks import Goal

LOGITS = torch.tensor([[3.0, 1.0, -2.0], [0.0, 4.0, 4.5]])


@pytest.mark.parametrize(
    ("goal", "margins"),
    [(Goal(0), [-2.0, 4.5]), (Goal(2), [5.0, -0.5]), (Goal(0, 1), [-2.0, -0.5]), (Goal(0, 2), [-5.0, 0.5])],
    ids=str,
)
def test_a_margin_is_positive_where_the_goal_is_reached(goal, margins):
    assert goal.margins(LOGITS).tolist() == margins


@pytest.mark.parametrize("goal", [Goal(1), Goal(0, 2)], ids=str)
def test_the_ascent_is_the_gradient_of_the_cross_entropy_up_to_a_positive_factor(goal):
    logits = LOGITS.double().requires_grad_()
    towards_N = torch.full((2,), goal.pivot)
    sign = 1 if goal.target is None else -1
    loss = sign * torch.nn.functional.cross_entropy(logits, towards_N, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    factor_N1 = gradient.abs().amax(1, keepdim=True)
    assert torch.allclose(goal.ascent(LOGITS).double(), gradient / factor_N1, atol=1e-6)


def test_the_ascent_does_not_vanish_where_the_network_is_sure():
    sure = torch.tensor([[500.0, 0.0, -10.0]])
    assert torch.equal(torch.softmax(sure, 1), torch.tensor([[1.0, 0.0, 0.0]]))
    assert Goal(0).ascent(sure)[0, :2].tolist() == pytest.approx([-1.0, 1.0], abs=1e-4)
