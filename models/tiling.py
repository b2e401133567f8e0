"""Overlap-tile inference (after Ronneberger, Fischer, Brox, 2015): images of any size in pieces, blended without seams.

Tiles are cut so that a network's pooling falls as it would in the whole image. Where neighbours overlap, what lies
within a quarter of the overlap from a tile's edge is thrown away, because there the tile's own edge is felt; over the
half between, one fades into the other. Only one row of tiles is held at a time.

Shape suffixes: N tiles, C channels, K classes, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[Any]
Probabilities = NDArray[np.float32]


class Tile(NamedTuple):
    """A tile's place in the grid."""

    row: int
    column: int


@dataclass(frozen=True)
class Axis:
    """Tiles along one side of the image."""

    length: int
    """Pixels of the image."""
    tile: int
    """Pixels of a tile; the last may reach beyond the image."""
    starts: tuple[int, ...]
    """Where the tiles begin."""

    @cached_property
    def weights(self) -> list[NDArray[np.float32]]:
        """How much each tile counts at its own pixels; over the tiles of a place they add up to 1."""
        position = np.arange(self.tile) + 0.5
        windows = []
        for index, start in enumerate(self.starts):
            window = np.ones(self.tile)
            if index > 0:
                window = np.minimum(window, _ramp(position, self.starts[index - 1] + self.tile - start))
            if index + 1 < len(self.starts):
                window = np.minimum(window, _ramp(self.tile - position, start + self.tile - self.starts[index + 1]))
            windows.append(window)
        total = np.zeros(self.starts[-1] + self.tile)
        for start, window in zip(self.starts, windows, strict=True):
            total[start : start + self.tile] += window
        return [
            (window / total[start : start + self.tile]).astype(np.float32)
            for start, window in zip(self.starts, windows, strict=True)
        ]


@dataclass(frozen=True)
class Grid:
    """The tiles of an image."""

    x: Axis
    y: Axis

    @property
    def tiles(self) -> list[Tile]:
        """All tiles, row by row."""
        return [Tile(row, column) for row in range(len(self.y.starts)) for column in range(len(self.x.starts))]

    @property
    def tile_hw(self) -> tuple[int, int]:
        """Height and width of every tile."""
        return self.y.tile, self.x.tile

    def batches(self, size: int) -> Iterator[list[Tile]]:
        """Give the tiles in order, at most so many at once."""
        tiles = self.tiles
        for first in range(0, len(tiles), size):
            yield tiles[first : first + size]

    def cut(self, values_CHW: Values, tile: Tile) -> Values:
        """Cut one tile; beyond the image its reflection goes on. Shape (C, ``tile_hw``)."""
        top, left = self.y.starts[tile.row], self.x.starts[tile.column]
        piece = values_CHW[:, top : top + self.y.tile, left : left + self.x.tile]
        missing = [(0, wanted - there) for wanted, there in zip(self.tile_hw, piece.shape[1:], strict=True)]
        return np.pad(piece, [(0, 0), *missing], mode="reflect") if any(after for _, after in missing) else piece


class Band(NamedTuple):
    """Finished rows of the image."""

    top: int
    """The first of them."""
    values: Probabilities
    """Shape (K, H, W); W is the image's whole width."""


class Blender:
    """Puts tiles together; give it every tile once, in the grid's order.

    Args:
        grid: Where the tiles lie.
        num_classes: K.
    """

    def __init__(self, grid: Grid, num_classes: int) -> None:
        self._grid = grid
        width = grid.x.starts[-1] + grid.x.tile
        self._sum: Probabilities = np.zeros((num_classes, grid.y.tile, width), dtype=np.float32)

    def add(self, tile: Tile, probabilities_KHW: Probabilities) -> Band | None:
        """Add one tile; gives the rows that are finished with it, if it is the last of its row of tiles."""
        grid = self._grid
        left = grid.x.starts[tile.column]
        weight = grid.y.weights[tile.row][:, None] * grid.x.weights[tile.column]
        self._sum[:, :, left : left + grid.x.tile] += weight * probabilities_KHW
        return self._finish(tile.row) if tile.column + 1 == len(grid.x.starts) else None

    def _finish(self, row: int) -> Band:
        starts, length = self._grid.y.starts, self._grid.y.length
        top = starts[row]
        done = (starts[row + 1] if row + 1 < len(starts) else length) - top
        band = Band(top, self._sum[:, :done, : self._grid.x.length].copy())
        self._sum[:, :-done] = self._sum[:, done:].copy()
        self._sum[:, -done:] = 0
        return band


class Resampler:
    """Resizes bands of rows bilinearly as they come, as if all rows were resized at once.

    Args:
        from_hw: Height and width of what comes.
        to_hw: Height and width of what is wanted.
    """

    def __init__(self, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> None:
        self._from, self._to = from_hw, to_hw
        self._held: Probabilities | None = None
        self._held_top = self._next = 0

    def add(self, band: Band) -> Band | None:
        """Take rows that follow the last; gives those rows of the result that can be told now, if any."""
        if self._from == self._to:
            return band
        wide = _resized(band.values, (band.values.shape[1], self._to[1]))
        held = wide if self._held is None else np.concatenate([self._held, wide], axis=1)
        end = self._held_top + held.shape[1]
        source = (np.arange(self._next, self._to[0]) + 0.5) * self._from[0] / self._to[0] - 0.5
        source = np.clip(source, 0, self._from[0] - 1)
        upper = np.floor(source).astype(int)
        lower = np.minimum(upper + 1, self._from[0] - 1)
        count = int((lower < end).sum())
        first = int(upper[count]) if count < len(upper) else end - 1
        upper, lower = upper[:count] - self._held_top, lower[:count] - self._held_top
        share = (source[:count] - np.floor(source[:count])).astype(np.float32)[:, None]
        values = held[:, upper] * (1 - share) + held[:, lower] * share
        keep = min(max(first, self._held_top), end) - self._held_top
        self._held, self._held_top = held[:, keep:].copy(), self._held_top + keep
        top, self._next = self._next, self._next + count
        return Band(top, values) if count else None


def plan(size_wh: tuple[int, int], *, tile_px: int, overlap: float = 0.25, multiple_px: int = 1) -> Grid:
    """Lay tiles over an image; one, if it fits.

    Args:
        size_wh: Width and height of the image.
        tile_px: Side of a tile; made a multiple of ``multiple_px``, and no larger than the image needs.
        overlap: Least share of a tile's side that neighbours have in common, in [0, 1).
        multiple_px: Sides and positions of the tiles are multiples of this.
    """
    width, height = size_wh
    sides = [_axis(length, tile_px, overlap, multiple_px) for length in (width, height)]
    return Grid(x=sides[0], y=sides[1])


def whole(size_wh: tuple[int, int], *, multiple_px: int = 1) -> Grid:
    """Take the image as a single tile."""
    return plan(size_wh, tile_px=max(size_wh), multiple_px=multiple_px)


def stack(grid: Grid, values_CHW: Values, tiles: Sequence[Tile]) -> Tensor:
    """Cut several tiles; shape (N, C, ``tile_hw``), dtype of the values."""
    return torch.from_numpy(np.stack([grid.cut(values_CHW, tile) for tile in tiles]))


def _axis(length: int, tile_px: int, overlap: float, multiple_px: int) -> Axis:
    padded = math.ceil(length / multiple_px) * multiple_px
    tile = min(math.ceil(tile_px / multiple_px) * multiple_px, padded)
    room = padded - tile
    stride = max(math.floor(tile * (1 - overlap) / multiple_px), 1) * multiple_px
    steps = math.ceil(room / stride)
    starts = tuple(round(index * room / steps / multiple_px) * multiple_px for index in range(steps)) if steps else ()
    return Axis(length=length, tile=tile, starts=(*starts, room))


def _ramp(position: NDArray[np.floating], overlap: int) -> NDArray[np.float64]:
    """Rise from 0 to 1 over the middle half of an overlap."""
    return np.clip((position - overlap / 4) / max(overlap / 2, 1e-9), 0, 1)


def _resized(values_KHW: Probabilities, size_hw: tuple[int, int]) -> Probabilities:
    resized: Probabilities = torch.nn.functional.interpolate(
        torch.from_numpy(values_KHW)[None], size=size_hw, mode="bilinear", align_corners=False
    )[0].numpy()
    return resized
