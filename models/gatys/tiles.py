"""Pieces of a picture too large for one device step, cut so that features and gradients equal those of the whole."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from models.gatys.encoder import Encoder, Reach

MIN_INNER_PX = 128
"""Tiles own at least so many pixels each way, lest their margins cost more than they do."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of the picture and the margin that its features see; tops and lefts are multiples of the stride."""

    top: int
    left: int
    bottom: int
    right: int
    margin: int
    size_hw: tuple[int, int]
    """Of the whole picture."""

    def cut(self, image_1CHW: Tensor) -> Tensor:
        """Cut the rectangle with its margin out of the whole picture."""
        height, width = self.size_hw
        rows = slice(max(0, self.top - self.margin), min(height, self.bottom + self.margin))
        columns = slice(max(0, self.left - self.margin), min(width, self.right + self.margin))
        return image_1CHW[..., rows, columns]

    def own(self, features_1CHW: Tensor, stride: int) -> Tensor:
        """Take the rectangle's own positions out of the features of what ``cut`` gave."""
        top, left = min(self.top, self.margin) // stride, min(self.left, self.margin) // stride
        rows = self.bottom // stride - self.top // stride
        columns = self.right // stride - self.left // stride
        return features_1CHW[..., top : top + rows, left : left + columns]

    def place(self, features_1CHW: Tensor, stride: int) -> Tensor:
        """Take the rectangle's positions out of the features of the whole picture."""
        rows = slice(self.top // stride, self.bottom // stride)
        return features_1CHW[..., rows, slice(self.left // stride, self.right // stride)]


def plan(size_hw: tuple[int, int], reaches: Collection[Reach], max_pixels: int) -> list[Tile]:
    """Divide a picture; one that is small enough stays whole.

    Args:
        size_hw: Its height and width.
        reaches: Of the layers whose features are wanted.
        max_pixels: Most pixels of a tile with its margin, where ``MIN_INNER_PX`` allows.
    """
    height, width = size_hw
    if height * width <= max_pixels:
        return [Tile(0, 0, height, width, 0, size_hw)]
    stride = max(reach.stride for reach in reaches)
    margin = math.ceil(max(reach.field for reach in reaches) / 2 / stride) * stride
    inner = max(MIN_INNER_PX, math.isqrt(max_pixels) - 2 * margin) // stride * stride
    inner = max(inner, stride)
    return [
        Tile(top, left, min(top + inner, height), min(left + inner, width), margin, size_hw)
        for top in range(0, height, inner)
        for left in range(0, width, inner)
    ]


def num_pixels(tiles: Collection[Tile]) -> int:
    """How many pixels the tiles have with their margins."""
    total = 0
    for tile in tiles:
        height, width = tile.size_hw
        rows = min(height, tile.bottom + tile.margin) - max(0, tile.top - tile.margin)
        total += rows * (min(width, tile.right + tile.margin) - max(0, tile.left - tile.margin))
    return total


def features(encoder: Encoder, image_1CHW: Tensor, tile: Tile, layers: Collection[str]) -> dict[str, Tensor]:
    """Give a tile's own features of some layers, as the whole picture has them."""
    told = encoder(tile.cut(image_1CHW), layers)
    return {name: tile.own(value, encoder.reach[name].stride) for name, value in told.items()}
