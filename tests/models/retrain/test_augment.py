import pytest
import torch

from models.retrain.augment import augmented


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


def test_none_changes_nothing():
    inputs = torch.rand(3, 3, 16, 16)
    assert augmented(inputs, "none", generator()) is inputs


@pytest.mark.parametrize("kind", ["light", "flip"])
def test_the_same_seed_gives_the_same_changes_and_each_picture_its_own(kind):
    inputs = torch.rand(1, 3, 16, 16, generator=generator()).expand(4, 3, 16, 16)
    first, again, other = (augmented(inputs, kind, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.05)
    assert not torch.allclose(first[0], first[1], atol=0.05)
    assert first.shape == inputs.shape


def test_a_plain_picture_stays_plain_up_to_its_edge_and_keeps_its_light_within_bounds():
    moved = augmented(torch.ones(64, 1, 12, 12), "light", generator())
    assert moved.flatten(1).std(dim=1).max() < 1e-5
    levels = moved[:, 0, 0, 0]
    assert 0.6 <= float(levels.min()) < 0.9
    assert 1.1 < float(levels.max()) <= 1.4


@pytest.mark.parametrize(("kind", "share"), [("light", 0.0), ("flip", 0.5)])
def test_flip_mirrors_every_second_picture_and_light_none(kind, share):
    left = torch.zeros(200, 1, 16, 16)
    left[..., :5] = 1
    moved = augmented(left, kind, generator())
    mirrored = moved[..., 8:].mean((1, 2, 3)) > moved[..., :8].mean((1, 2, 3))
    assert float(mirrored.float().mean()) == pytest.approx(share, abs=0.1)
