"""The recipe of the style encoder, in miniature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.cards import read_card
from models.catalog import Catalog
from models.loading import load
from models.networks.style_encoder import StyleEncoder
from models.recipes import style_pairs, style_patches, style_pictures, style_textures, style_training


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(style_patches, "PHOTOGRAPHS", ("coins", "chelsea"))
    monkeypatch.setattr(style_patches, "STYLES", {"waves": style_pictures.waves})
    monkeypatch.setattr(style_patches, "DRAWN_PX", 128)
    style_patches.sources.cache_clear()
    yield
    style_patches.sources.cache_clear()


@pytest.mark.parametrize("name", sorted(style_pictures.STYLES))
def test_drawn_styles_depend_on_the_seed_alone(name: str) -> None:
    draw = style_pictures.STYLES[name]
    first, again, other = draw(96, 1), draw(96, 1), draw(96, 2)
    assert (first.shape, first.dtype) == ((96, 96, 3), np.uint8)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() > 20


@pytest.mark.usefixtures("few")
def test_patches_come_with_their_class_and_their_damage() -> None:
    patches, classes, damages = style_patches.batch(64, np.random.default_rng(0))
    assert (patches.shape, patches.dtype) == ((64, 96, 96, 3), np.uint8)
    assert style_patches.num_classes() == 9
    assert set(classes) <= set(range(9))
    assert set(damages) == set(range(len(style_patches.DAMAGES)))


@pytest.mark.parametrize("index", range(1, len(style_patches.DAMAGES)), ids=style_patches.DAMAGES[1:])
def test_every_damage_can_be_seen(index: int) -> None:
    patch = style_pictures.mosaic(style_patches.PATCH_PX, 3)
    damaged = style_patches._DAMAGE[index](patch, np.random.default_rng(4))
    assert (damaged.shape, damaged.dtype) == (patch.shape, np.uint8)
    assert np.abs(damaged.astype(int) - patch).mean() > 1
    assert np.array_equal(style_patches._DAMAGE[0](patch, np.random.default_rng(4)), patch)


@pytest.mark.usefixtures("few")
def test_scaling_filters_changes_the_last_features_by_a_factor_per_channel() -> None:
    torch.manual_seed(1)
    encoder = StyleEncoder(widths=(4, 6), depths=(1, 2))
    # Biases that keep every filter lit, so that none has the least scale.
    for layer in encoder.features:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.constant_(layer.bias, 0.5)
    inputs = style_training.to_input(style_patches.batch(8, np.random.default_rng(0))[0])
    with torch.no_grad():
        before = encoder(inputs)
        after = style_training.normalise(encoder)(inputs)
    ratio = (before.mean((0, 2, 3)) / after.mean((0, 2, 3)))[None, :, None, None]
    assert torch.allclose(after * ratio, before, rtol=1e-3, atol=1e-4)
    assert 0.3 < float(after.mean()) < 3


@pytest.mark.usefixtures("few")
def test_batch_normalisation_is_folded_without_a_trace() -> None:
    torch.manual_seed(2)
    encoder = StyleEncoder(widths=(4, 6), depths=(1, 2))
    asked = style_training._Asked(encoder, 3, 2)
    inputs = style_training.to_input(style_patches.batch(8, np.random.default_rng(0))[0])
    asked(inputs)
    asked.eval()
    with torch.no_grad():
        expected = inputs
        for layer in asked.layers.values():
            expected = layer(expected)
        assert torch.allclose(style_training._fold(encoder, asked)(inputs), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("few")
def test_the_recipe_writes_a_model_that_loads_and_says_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style_textures, "STEPS", 2)
    monkeypatch.setattr(style_training, "BATCH_SIZE", 4)
    monkeypatch.setattr(style_training, "CLEAN_PATCHES", 4)
    whole = style_pairs.paint_all

    def small(*arguments: Any, **_: Any) -> Any:
        return whole(*arguments, size_px=48, steps=2)

    monkeypatch.setattr(style_pairs, "paint_all", small)
    told: list[str] = []
    least = style_textures.train(tmp_path / "style-textures", report=told.append)
    card = read_card(tmp_path / "style-textures" / "card.toml")
    assert len(told) == len(card.quality) == len(style_pairs.PAIRS)
    assert min(figure.value for figure in card.quality) == pytest.approx(least, abs=1e-4)
    network = load(Catalog(tmp_path).find("style-textures"))
    assert card.cost.num_params == sum(parameter.numel() for parameter in network.parameters()) == 761_208


def test_pairs_are_painted_and_shown() -> None:
    torch.manual_seed(0)
    encoder = StyleEncoder(widths=(4, 6, 6, 6, 6), depths=(1, 1, 2, 2, 1)).eval().requires_grad_(False)
    told: list[Any] = []
    run = style_pairs.paint_all(encoder, style_textures.PREPROCESSING, style_textures.LAYERS, size_px=48, steps=3)
    painted = style_pairs.report(run, told.append)
    assert [(pair.content, pair.style) for pair in painted] == list(style_pairs.PAIRS)
    assert all(0 < pair.fall < 1 for pair in painted)
    assert told[0].row_count == 5
    assert style_pairs.contact_sheet(painted, side_px=60).size == (5 * 68 + 8, 2 * 68 + 30)
