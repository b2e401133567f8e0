"""What depthwise separable convolutions save (Howard et al.: MobileNets, 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from models.accounting.layers import Layer


@dataclass(frozen=True)
class Separable:
    """A depthwise convolution and the 1x1 convolution that mixes its channels."""

    depthwise: str
    """Dotted name."""
    pointwise: str
    """Dotted name."""
    channels_in: int
    """D_in."""
    channels_out: int
    """D_out."""
    kernel: tuple[int, ...]
    """K in each direction."""
    positions: int
    """Of the output of both."""
    multiply_adds: int
    """Counted in the run of the two."""

    @property
    def by_formula(self) -> int:
        """Positions times (D_in K^2 + D_in D_out)."""
        return self.positions * self.channels_in * (math.prod(self.kernel) + self.channels_out)

    @property
    def full(self) -> int:
        """What one ordinary convolution would take: positions times D_in D_out K^2."""
        return self.positions * self.channels_in * self.channels_out * math.prod(self.kernel)

    @property
    def share(self) -> float:
        """The counted part of an ordinary convolution's multiply-adds: 1 / D_out + 1 / K^2."""
        return self.multiply_adds / self.full


def separable_pairs(layers: Sequence[Layer]) -> list[Separable]:
    """Find depthwise convolutions that are followed by a 1x1 convolution of the same channels and positions.

    Args:
        layers: All rows of a profile, in the order in which they ran.

    Returns:
        In the same order. Between the two there may be normalisation, activations, and squeeze-and-excitation.
    """
    convolutions = [layer for layer in layers if layer.windows is not None and layer.windows.in_channels]
    pairs = []
    for number, layer in enumerate(convolutions):
        if not _is_depthwise(layer):
            continue
        later = convolutions[number + 1 :]
        stop = next((place for place, other in enumerate(later) if _is_depthwise(other)), len(later))
        mixing = next((other for other in later[:stop] if _mixes(layer, other)), None)
        if mixing is not None:
            pairs.append(_pair(layer, mixing))
    return pairs


def _is_depthwise(layer: Layer) -> bool:
    lies = layer.windows
    if lies is None or lies.transposed:
        return False
    return lies.groups == lies.in_channels == lies.out_channels > 1 and math.prod(lies.kernel) > 1


def _mixes(depthwise: Layer, other: Layer) -> bool:
    lies, before = other.windows, depthwise.windows
    if lies is None or before is None:
        return False
    return (
        math.prod(lies.kernel) == 1
        and lies.groups == 1
        and lies.in_channels == before.out_channels
        and other.output_shape[2:] == depthwise.output_shape[2:]
    )


def _pair(depthwise: Layer, pointwise: Layer) -> Separable:
    first, second = depthwise.windows, pointwise.windows
    assert first is not None
    assert second is not None
    return Separable(
        depthwise=depthwise.name,
        pointwise=pointwise.name,
        channels_in=first.in_channels,
        channels_out=second.out_channels,
        kernel=first.kernel,
        positions=math.prod(pointwise.output_shape[2:]),
        multiply_adds=depthwise.multiply_adds + pointwise.multiply_adds,
    )
