"""The attacks against known optima, their bounds, and what they owe to seed and micro-batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from models.attacks import NORMS, Goal, LevelClassifier, Plan, Search

SHAPE = (1, 4, 5)
WEIGHTS = torch.tensor([(7 * index) % 11 - 5 for index in range(20)]).float().view(SHAPE)
WEIGHTS[WEIGHTS == 0] = 2
ORIGIN = torch.full(SHAPE, 128, dtype=torch.uint8)


class Linear(nn.Module):
    """Two classes: class 1 leads by the weighted sum of the levels above those of the origin, less an advantage."""

    def __init__(self, advantage: float, weights: torch.Tensor = WEIGHTS) -> None:
        super().__init__()
        self.advantage, self.weights = advantage, weights

    def forward(self, levels_NCHW: torch.Tensor) -> torch.Tensor:
        lead_N = ((levels_NCHW - 128) * self.weights).sum(dim=(1, 2, 3)) - self.advantage
        return torch.stack([torch.zeros_like(lead_N), lead_N], dim=1)


class Bump(nn.Module):
    """Class 1 leads where the mean level lies within five levels of eight above mid-grey."""

    def forward(self, levels_NCHW: torch.Tensor) -> torch.Tensor:
        lead_N = 5 - (levels_NCHW.mean(dim=(1, 2, 3)) - 136).abs()
        return torch.stack([torch.zeros_like(lead_N), lead_N], dim=1)


def small_network(seed: int = 0) -> LevelClassifier:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
    return LevelClassifier(network.requires_grad_(False), mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.3])


def picture(seed: int = 0, shape: tuple[int, ...] = (3, 12, 10)) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def attack(network, origin, goal, plan, **more) -> Search:
    search = Search(network, origin, goal, plan, **more)
    told = list(search.run())
    assert told == list(range(1, plan.num_micro_batches(search.max_batch) + 1))
    return search


def change(search: Search, which: int = 0) -> np.ndarray:
    return search.within(which)[0].levels.numpy().astype(int) - search.origin.numpy().astype(int)


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
@pytest.mark.parametrize("levels", [1, 3, 17])
def test_on_a_linear_classifier_linf_moves_every_value_by_epsilon_along_the_signs(method, levels):
    advantage = float((levels - 0.5) * WEIGHTS.abs().sum())
    search = attack(Linear(advantage), ORIGIN, Goal(0), Plan((levels / 255,), method=method))
    assert (change(search) == levels * WEIGHTS.sign().numpy()).all()
    assert search.best[0].margin == pytest.approx(float(levels * WEIGHTS.abs().sum()) - advantage)


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_on_a_linear_classifier_linf_succeeds_from_the_smallest_epsilon_on(method):
    # The smallest change that suffices is the advantage over the sum of the absolute weights.
    advantage = float(6.5 * WEIGHTS.abs().sum())
    search = attack(Linear(advantage), ORIGIN, Goal(0), Plan(tuple(k / 255 for k in range(4, 10)), method=method))
    assert [search.within(which)[0].margin > 0 for which in range(6)] == [False, False, False, True, True, True]


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_on_a_linear_classifier_l2_succeeds_from_the_smallest_epsilon_on(method):
    length = float(WEIGHTS.norm())
    smallest = 40 / 255
    epsilons = tuple(smallest * factor for factor in (0.5, 0.99, 1.03, 2.0))
    plan = Plan(epsilons, method=method, norm="l2", random_start=False)
    search = attack(Linear(40 * length), ORIGIN, Goal(0), plan)
    assert [search.within(which)[0].margin > 0 for which in range(4)] == [False, False, True, True]
    # The optimum is parallel to the weights; whole levels cannot quite be.
    moved = change(search, 3)
    cosine = (moved * WEIGHTS.numpy()).sum() / np.linalg.norm(moved) / length
    assert cosine > 0.999


def test_a_target_is_led_to_where_any_class_would_do_for_an_untargeted_attack():
    network, origin = small_network(), picture()
    says = int(network(origin[None].float()).argmax())
    for target in sorted({0, 1, 2, 3, 4} - {says}):
        search = attack(network, origin, Goal(says, target), Plan((0.5,)))
        found = search.best[0]
        assert found.margin > 0
        assert int(network(found.levels[None].float()).argmax()) == target


@pytest.mark.parametrize("epsilon", [0.5 / 255, 1 / 255, 2.7 / 255, 0.06, 0.7])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_no_change_exceeds_epsilon_or_touches_what_is_not_free(method, norm, epsilon):
    network, origin, free = small_network(), picture(), torch.ones(12, 10, dtype=torch.bool)
    free[:3] = False
    goal = Goal(int(network(origin[None].float()).argmax()))
    plan = Plan((epsilon,), method=method, norm=norm, steps=12, restarts=3)
    search = attack(network, origin, goal, plan, free=free)
    moved = change(search)
    ball = NORMS[norm]
    assert ball.norm(ball.size(moved)) <= epsilon
    assert not moved[:, :3].any()
    assert moved.any() or epsilon < 1 / 255
    margin = float(goal.margins(network(search.best[0].levels[None].float())))
    assert margin == pytest.approx(search.best[0].margin, abs=1e-5)


def test_black_and_white_are_where_a_change_ends():
    origin = torch.where(WEIGHTS > 0, 250, 5).to(torch.uint8)
    search = attack(Linear(1e6), origin, Goal(0), Plan((50 / 255,), method="fgsm"))
    assert (np.abs(change(search)) == 5).all()


def test_a_network_that_is_sure_is_attacked_all_the_same():
    network = small_network()

    class Sure(nn.Module):
        def forward(self, levels_NCHW: torch.Tensor) -> torch.Tensor:
            return 1e4 * network(levels_NCHW)

    origin = picture()
    says = int(network(origin[None].float()).argmax())
    assert float(Sure()(origin[None].float()).softmax(1).amax()) == 1
    assert attack(Sure(), origin, Goal(says), Plan((0.3,))).best[0].margin > 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_same_seed_repeats_whatever_shares_a_micro_batch(norm):
    network = Linear(1000.0)
    how = {"norm": norm, "steps": 3, "step_size": 0.01, "restarts": 4}
    plan = Plan((0.05, 0.2, 0.6), seed=5, **how)
    first, again, alone = (attack(network, ORIGIN, Goal(0), plan, max_batch=size) for size in (32, 32, 1))
    other = attack(network, ORIGIN, Goal(0), Plan((0.05, 0.2, 0.6), seed=6, **how))
    for which in range(3):
        assert torch.equal(first.best[which].levels, again.best[which].levels)
        assert torch.equal(first.best[which].levels, alone.best[which].levels)
    assert any(not torch.equal(one.levels, two.levels) for one, two in zip(first.best, other.best, strict=True))


def test_without_a_random_start_only_restarts_are_random():
    plans = [Plan((0.2,), steps=1, step_size=0.01, random_start=False, seed=seed) for seed in (1, 2)]
    one, two = (attack(Linear(1000.0), ORIGIN, Goal(0), plan) for plan in plans)
    assert torch.equal(one.best[0].levels, two.best[0].levels)
    assert np.abs(change(one)).max() == 3
    more = attack(
        Linear(1000.0), ORIGIN, Goal(0), Plan((0.2,), steps=1, step_size=0.01, random_start=False, restarts=9)
    )
    assert more.best[0].margin > one.best[0].margin


def test_restarts_never_do_worse_and_count_their_steps():
    network, origin = small_network(3), picture(3)
    goal = Goal(int(network(origin[None].float()).argmax()))
    once, often = (attack(network, origin, goal, Plan((0.02,), steps=5, restarts=n)) for n in (1, 6))
    assert often.best[0].margin >= once.best[0].margin
    assert (once.num_steps, often.num_steps) == ([5], [30])


def test_pgd_counts_what_a_smaller_epsilon_found_and_fgsm_does_not():
    epsilons = (8 / 255, 16 / 255)
    fast = attack(Bump(), ORIGIN, Goal(0), Plan(epsilons, method="fgsm"))
    assert [fast.within(which)[0].margin for which in (0, 1)] == [5, -3]
    # Steps so long that the larger ball's descent jumps over the bump.
    slow = attack(Bump(), ORIGIN, Goal(0), Plan(epsilons, steps=1, step_size=1.0, random_start=False))
    assert slow.best[1].margin == -3
    assert [slow.within(which)[0].margin for which in (0, 1)] == [5, 5]


def test_another_network_may_be_the_judge():
    # Followed is a classifier that is fooled upwards, judged one that is fooled downwards.
    search = attack(Linear(100.0), ORIGIN, Goal(0), Plan((0.1,)), judge=Linear(100.0, -WEIGHTS))
    assert search.best[0].margin == pytest.approx(
        float(Goal(0).margins(Linear(100.0, -WEIGHTS)(search.best[0].levels[None].float())))
    )
    assert (change(search) != 25 * WEIGHTS.sign().numpy()).any()


def test_the_best_so_far_is_there_after_every_micro_batch():
    search = Search(Linear(1000.0), ORIGIN, Goal(0), Plan((0.1, 0.3), steps=6))
    margins = []
    for _ in search.run():
        assert all(found is not None for found in search.best)
        margins.append(search.best[1].margin)
    assert margins == sorted(margins)
    assert len(set(margins)) > 2


def test_logits_that_are_not_finite_are_an_error():
    class Broken(nn.Module):
        def forward(self, levels_NCHW: torch.Tensor) -> torch.Tensor:
            return levels_NCHW.flatten(1)[:, :3] * math.nan

    with pytest.raises(ArithmeticError, match="not finite"):
        list(Search(Broken(), ORIGIN, Goal(0), Plan((0.1,))).run())


def test_levels_become_the_very_inputs_of_the_card():
    from models.cards import Preprocessing
    from models.preprocess import Preprocess

    how, seen = Preprocessing(), []
    network = LevelClassifier(lambda x: seen.append(x) or x.flatten(1), mean=how.mean, std=how.std)
    levels = picture()
    network(levels[None].float())
    assert torch.equal(seen[0][0], Preprocess(how).normalise(levels))
