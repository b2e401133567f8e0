"""What a painting is measured by: Gatys, Ecker, Bethge 2015, each term made independent of the layer's scale.

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TV_SCALE = 100.0
"""Brings the total variation of a photograph near one."""
_EPSILON = 1e-8


@dataclass(frozen=True)
class Terms:
    """The weighted terms of the loss."""

    content: float
    """How far the content's features are."""
    style: float
    """How far the styles' Gram matrices are."""
    tv: float
    """The total variation."""

    @property
    def total(self) -> float:
        """Their sum."""
        return self.content + self.style + self.tv


@dataclass(frozen=True)
class Weights:
    """How much each part of the loss counts; those of layers are relative to each other."""

    content: float = 1.0
    style: float = 100.0
    tv: float = 1.0
    content_layers: Mapping[str, float] = field(default_factory=dict)
    style_layers: Mapping[str, float] = field(default_factory=dict)

    @property
    def for_content(self) -> dict[str, float]:
        """The layers that are compared for content, and their shares."""
        return _shares(self.content_layers) if self.content else {}

    @property
    def for_style(self) -> dict[str, float]:
        """The layers that are compared for style, and their shares."""
        return _shares(self.style_layers) if self.style else {}


@dataclass(frozen=True)
class StyleTarget:
    """One style's Gram matrices by layer, and its share among the styles."""

    grams: Mapping[str, Tensor]
    share: float = 1.0


def gram(features_1CHW: Tensor) -> Tensor:
    """Sum the products of every two channels over all positions: (C, C), not divided by their number."""
    flat = features_1CHW[0].flatten(1)
    return flat @ flat.T


def style_loss(grams: Mapping[str, Tensor], targets: Sequence[StyleTarget], layers: Mapping[str, float]) -> Tensor:
    """Compare Gram matrices: squared distance, relative to the squared norm of the target's.

    Args:
        grams: Layer → mean over positions, (C, C).
        targets: Of every style; their shares are relative to each other.
        layers: Layer → share.

    Returns:
        The mean over layers and styles by share; 1 for an image without any features.
    """
    whole = sum(target.share for target in targets)
    terms = [
        target.share / whole * share * relative(grams[name], target.grams[name], norm(target.grams[name]))
        for target in targets
        for name, share in layers.items()
    ]
    return torch.stack(terms).sum()


def norm(target: Tensor) -> Tensor:
    """Squared norm of what a loss is relative to, a scalar."""
    return target.square().sum() + _EPSILON


def relative(values: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """Squared distance over a squared norm, a scalar."""
    return (values - target).square().sum() / scale


def total_variation(image_1CHW: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, both ways, times ``TV_SCALE``."""
    down = (image_1CHW[..., 1:, :] - image_1CHW[..., :-1, :]).square().mean()
    right = (image_1CHW[..., :, 1:] - image_1CHW[..., :, :-1]).square().mean()
    return TV_SCALE * (down + right)


def _shares(layers: Mapping[str, float]) -> dict[str, float]:
    whole = sum(layers.values())
    return {name: weight / whole for name, weight in layers.items() if weight > 0}
