"""Which units an image excites, how strongly, and where.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Selection = Literal["strongest", "first"]
"""Which channels, where none are named."""


@dataclass(frozen=True)
class Peak:
    """A unit at the place where an image excites it most."""

    layer: str
    """The module, by its dotted name."""
    channel: int
    """Index of the channel."""
    activation: float
    """Its value there; nothing excites a unit whose value is not above zero."""
    position_yx: tuple[int, int] | None
    """Row and column of the layer's map; none where it has no positions, or the value is the same at all of them."""


def peaks(
    maps: Mapping[str, Tensor],
    *,
    channels: Sequence[int] | None = None,
    most: int = 9,
    selection: Selection = "strongest",
) -> list[list[Peak]]:
    """Find the strongest position of chosen channels.

    Args:
        maps: Layer → its maps (N, C, H, W), as ``Maps`` gives them.
        channels: Of each of the layers, in the order wanted; unset chooses by ``selection``.
        most: How many channels of a layer, where none are named.
        selection: The most excited channels, strongest first; or the first of the layer.

    Returns:
        For each image its units, layer by layer.
    """
    num_images = len(next(iter(maps.values())))
    found: list[list[Peak]] = [[] for _ in range(num_images)]
    for layer, maps_NCHW in maps.items():
        width = maps_NCHW.shape[3]
        values_NCP = maps_NCHW.detach().flatten(2).float()
        best_NC, place_NC = values_NCP.max(dim=2)
        flat_NC = best_NC == values_NCP.amin(dim=2)
        rows = zip(best_NC.tolist(), place_NC.tolist(), flat_NC.tolist(), strict=True)
        for units, (best, place, flat) in zip(found, rows, strict=True):
            for channel in _chosen(best, channels, most, selection):
                position = None if flat[channel] else divmod(place[channel], width)
                units.append(Peak(layer, channel, best[channel], position))
    return found


def _chosen(best: list[float], channels: Sequence[int] | None, most: int, selection: Selection) -> Sequence[int]:
    if channels is not None:
        return channels
    order = range(len(best))
    return order[:most] if selection == "first" else sorted(order, key=lambda channel: -best[channel])[:most]
