import math

import numpy as np
import pytest
import torch

from models.networks.stn import sample
from models.recipes import digits, stn_canvases
from models.recipes.stn_canvases import Ink, draw


@pytest.fixture
def clean(monkeypatch):
    """Digits alone, without clutter and grain."""
    monkeypatch.setattr(stn_canvases, "PRESENCE", 0.0)
    monkeypatch.setattr(stn_canvases, "NOISE", (0.0, 0.0))


def drawn(num=200, seed=3, **options):
    return draw(Ink.of(digits.training_split()), num, torch.Generator().manual_seed(seed), **options)


def test_a_seed_gives_the_same_canvases_and_another_gives_others():
    first, second, other = drawn(8), drawn(8), drawn(8, seed=4)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert not torch.equal(first.pixels, other.pixels)


def test_a_file_holds_exactly_what_the_network_was_measured_on():
    canvases = drawn(8)
    levels = canvases.levels()
    assert (levels.shape, levels.dtype) == ((8, 64, 64), np.uint8)
    torch.testing.assert_close(torch.from_numpy(levels)[:, None] / 255, canvases.pixels, atol=0, rtol=0)


def test_turns_scales_and_places_are_what_was_promised(clean):
    canvases = drawn(2000)
    theta = canvases.theta
    scales = 2 * torch.linalg.det(theta[:, :, :2]).sqrt()
    turns = torch.atan2(theta[:, 1, 0], theta[:, 0, 0])
    assert (scales.min().item(), scales.max().item()) == pytest.approx((0.7, 1.2), abs=0.01)
    assert (turns.min().item(), turns.max().item()) == pytest.approx((-math.pi / 4, math.pi / 4), abs=0.01)
    is_inked = (canvases.pixels[:, 0] > 0.2).any(dim=0)
    assert is_inked.float().mean() > 0.97


def test_no_ink_is_cut_off(clean):
    canvases = drawn(500)
    area = torch.linalg.det(canvases.theta[:, :, :2]) * 4
    chosen = draw(Ink.of(digits.training_split()), 500, torch.Generator().manual_seed(3), distortion=0).pixels
    shrunk = chosen.sum((1, 2, 3)) / 4 * area
    # Brightness was drawn from the same numbers, so that the ink is the same but for its area.
    ratio = canvases.pixels.sum((1, 2, 3)) / shrunk
    assert ratio.min() > 0.85
    assert ratio.max() < 1.15


def test_the_truth_leads_back_to_the_upright_digit(clean):
    ink = Ink.of(digits.training_split())
    canvases = draw(ink, 20, torch.Generator().manual_seed(3), chosen=range(20))
    upright = sample(canvases.pixels, canvases.theta, side_px=32)
    upright = upright / upright.amax((1, 2, 3), keepdim=True)
    expected = ink.enlarged_S1HW[:20] / ink.enlarged_S1HW[:20].amax((1, 2, 3), keepdim=True)
    assert (upright - expected).abs().mean() < 0.04
    assert torch.equal(canvases.targets, ink.targets[:20])


def test_corners_of_the_truth_are_pixels_in_order():
    quads = drawn(50, distortion=0).quads_xy()
    np.testing.assert_allclose(quads[0], [[0, 0], [64, 0], [64, 64], [0, 64]], atol=1e-4)
    turned = drawn(300).quads_xy()
    left_to_right = turned[:, 1] - turned[:, 0]
    assert (left_to_right[:, 0] > 0).all()
    sides = np.linalg.norm(left_to_right, axis=1)
    assert sides.min() >= 0.7 * 32 - 1e-3
    assert sides.max() <= 1.2 * 32 + 1e-3


def test_clutter_covers_canvases_and_keeps_away_from_most_of_the_digit(monkeypatch):
    monkeypatch.setattr(stn_canvases, "NOISE", (0.0, 0.0))
    cluttered = drawn(300)
    monkeypatch.setattr(stn_canvases, "PRESENCE", 0.0)
    alone = drawn(300)
    torch.testing.assert_close(cluttered.theta, alone.theta)
    added = (cluttered.pixels - alone.pixels) > 0.2
    digit = alone.pixels > 0.3
    assert 0.03 < added.float().mean() < 0.3
    assert (added & digit).sum() < 0.1 * digit.sum()


def test_held_out_canvases_are_made_of_held_out_digits_alone(monkeypatch):
    seen = []
    of = Ink.of.__func__

    def watched(cls, indices):
        seen.append(indices)
        return of(cls, indices)

    monkeypatch.setattr(Ink, "of", classmethod(watched))
    measured, shown = stn_canvases.held_out(), stn_canvases.examples(5)
    assert all(np.array_equal(indices, digits.test_split()) for indices in seen)
    assert len(seen) == 2
    assert measured.pixels.shape == (3600, 1, 64, 64)
    assert torch.bincount(measured.targets, minlength=10).min() > 250
    assert not any(torch.equal(one, two) for one in shown.pixels for two in measured.pixels[:5])
