"""Measures ``unet-cells`` on scenes with textures that training never saw.

The command is ``python -m models.recipes.unet_cells_measure``.

Shape suffixes: C channels, K classes, H height, W width.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from models import tiling
from models.catalog import Catalog
from models.instances import separate
from models.loading import load
from models.preprocess import Preprocess
from models.recipes import cells

HELD_OUT_SEEDS = range(1_000_000, 1_000_080)
"""Scenes to measure on, drawn with held-out textures."""
MIN_AREA_PX = 100
"""Cells of which the picture's edge leaves fewer pixels count neither way."""
MIN_IOU = 0.75
"""An object is a coin if so much of the two is in common."""
LARGE_SCENE_WH = (2000, 1500)
"""On this scene tiles are compared with the whole image."""
TILE_PX, MULTIPLE_PX = 512, 16
"""Tiles as the card has them."""


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    iou: tuple[float, ...]
    """Intersection over union of each class, over all pixels of all scenes."""
    count_error: float
    """Sum over the scenes of how far the number of objects is off, by the number of cells there are."""
    num_cells: int
    """Cells there are."""
    num_coins: int
    """Coins of scikit-image's photograph that are matched by exactly one object."""
    num_surplus: int
    """Objects in that photograph that match no coin."""

    @property
    def mean_iou(self) -> float:
        """Mean over the classes."""
        return float(np.mean(self.iou))


def measure(network: nn.Module) -> Figures:
    """Segment the held-out scenes and the coins."""
    shared, either = np.zeros(len(cells.LABELS)), np.zeros(len(cells.LABELS))
    off = total = 0
    for seed in HELD_OUT_SEEDS:
        scene = cells.scene(seed, held_out=True)
        found_HW = classes(network, scene.image)
        for class_id in range(len(cells.LABELS)):
            found, true = found_HW == class_id, scene.classes == class_id
            shared[class_id] += (found & true).sum()
            either[class_id] += (found | true).sum()
        num_cells = scene.count(min_area_px=MIN_AREA_PX)
        off += abs(len(separate(found_HW, border=cells.BORDER, min_area_px=MIN_AREA_PX)[1]) - num_cells)
        total += num_cells
    num_coins, num_surplus = coins(network)
    return Figures(tuple((shared / either).tolist()), off / total, total, num_coins, num_surplus)


def coins(network: nn.Module) -> tuple[int, int]:
    """Segment scikit-image's ``coins`` as it is, at scale 1; gives coins matched and objects that match none."""
    reference_HW = reference_coins()
    numbers_HW, objects = separate(classes(network, _coins()), border=cells.BORDER, min_area_px=MIN_AREA_PX)
    num_coins = int(reference_HW.max())
    shared = np.zeros((len(objects) + 1, num_coins + 1), dtype=np.int64)
    np.add.at(shared, (numbers_HW, reference_HW), 1)
    either = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0, keepdims=True) - shared
    # Above one half, no two objects can match one coin.
    matches = (shared / either)[1:, 1:] >= MIN_IOU
    return int(matches.any(axis=0).sum()), int((~matches.any(axis=1)).sum())


def reference_coins() -> NDArray[np.int64]:
    """Find the 24 coins by Sobel edges and a watershed from the darkest and brightest levels; shape (303, 384)."""
    from scipy import ndimage

    filters: Any = importlib.import_module("skimage.filters")
    segmentation: Any = importlib.import_module("skimage.segmentation")
    levels_HW = _coins()
    seeds_HW = np.select([levels_HW < 30, levels_HW > 150], [1, 2], 0)
    coins_HW = segmentation.watershed(filters.sobel(levels_HW), seeds_HW) == 2
    numbers_HW, _ = ndimage.label(ndimage.binary_fill_holes(coins_HW))
    large = np.bincount(numbers_HW.ravel()) >= MIN_AREA_PX
    large[0] = False
    kept_HW: NDArray[np.int64] = np.where(large, large.cumsum(), 0)[numbers_HW]
    return kept_HW


def _coins() -> NDArray[np.uint8]:
    data: Any = importlib.import_module("skimage.data")
    levels_HW: NDArray[np.uint8] = data.coins()
    return levels_HW


def classes(network: nn.Module, levels_HW: NDArray[np.uint8], *, tile_px: int | None = None) -> NDArray[np.uint8]:
    """Segment grey levels, whole or in tiles; gives the class of each pixel."""
    size_wh = levels_HW.shape[1], levels_HW.shape[0]
    grid = tiling.plan(size_wh, tile_px=tile_px or max(size_wh), multiple_px=MULTIPLE_PX)
    preprocess, blender = Preprocess(cells.PREPROCESSING), tiling.Blender(grid, len(cells.LABELS))
    rows: list[NDArray[Any]] = []
    for tile in grid.tiles:
        with torch.inference_mode():
            inputs_NCHW = preprocess.normalise(tiling.stack(grid, levels_HW[None], [tile]))
            band = blender.add(tile, network(inputs_NCHW).softmax(dim=1)[0].numpy())
        if band is not None:
            rows.append(band.values.argmax(axis=0).astype(np.uint8))
    return np.concatenate(rows)


def agreement(network: nn.Module) -> float:
    """Segment a large held-out scene in tiles and whole; gives the share of pixels of the same class."""
    scene = cells.scene(HELD_OUT_SEEDS.start - 1, size_wh=LARGE_SCENE_WH, held_out=True)
    tiled_HW, whole_HW = classes(network, scene.image, tile_px=TILE_PX), classes(network, scene.image)
    return float((tiled_HW == whole_HW).mean())


def main() -> None:
    """Measure the bundled model, and print what its card states."""
    network, print_line = load(Catalog().find("unet-cells")), Console().print
    figures = measure(network)
    for label, iou in zip(cells.LABELS, figures.iou, strict=True):
        print_line(f"IoU of {label}: {iou:.4f}")
    print_line(f"mean IoU on {len(HELD_OUT_SEEDS)} held-out scenes: {figures.mean_iou:.4f}")
    print_line(f"instance count error: {figures.count_error:.2%} of {figures.num_cells} cells")
    print_line(f"coins separated: {figures.num_coins} of 24, {figures.num_surplus} other objects")
    width, height = LARGE_SCENE_WH
    print_line(
        f"tiles of {TILE_PX} px and the whole {width}x{height} scene agree on {agreement(network):.4%} of pixels"
    )


if __name__ == "__main__":
    main()
