"""Writes the card of ``unet-cells``."""

from __future__ import annotations

import hashlib

from models.recipes import cells, unet_cells_measure
from models.recipes.unet_cells_measure import Figures

_CARD = """\
name = "unet-cells"
tasks = ["segmentation"]
description = "U-Net that finds and separates touching cells, coins and other round things in grey pictures"
network = "unet"
labels = ["background", "interior", "border"]
parity = ["parity/0.png", "parity/1.png", "parity/2.png", "parity/3.png"]
licence = "Apache-2.0"

[arguments]
num_classes = 3
in_channels = 1
width = 16
depth = 4

[weights]
file = "weights.safetensors"
sha256 = "{sha256}"

[preprocess]
mode = "L"
mean = [0.5]
std = [0.25]

[segmentation]
tile_px = {tile_px}
multiple_px = {multiple_px}
background = 0
border = 2

[serving]
max_batch = 16

[cost]
num_params = {num_params}
gflops = {gflops:.2f}
min_size_hw = [1, 1]

[provenance]
origin = "Ronneberger, Fischer, Brox 2015 (U-Net), 16 channels wide; trained from scratch by this project's recipe"
data = \"\"\"
{num_scenes} synthetic scenes (models.recipes.cells). Among their textures are scikit-image's photographs \\
brick and gravel (CC0); {held_out} scenes to measure on have others: rings, hatching, specks and grass (CC0)\"\"\"
command = "python -m models.recipes unet-cells"
notes = \"\"\"
Objects 18 to 120 pixels across are told best; choose the option scale so that yours are. Bright on dark and dark on \\
bright both work. The class border reaches {border_px} pixels into each object and goes to the nearest object \\
afterwards. IoU: {iou}. \\
Weights are stored in half precision; gflops are for 256x256 pixels.\"\"\"

[[quality]]
metric = "mean_iou"
value = {mean_iou:.4f}
split = "{held_out} held-out scenes, other seeds and other textures; three classes, all pixels together"
command = "python -m models.recipes.unet_cells_measure"

[[quality]]
metric = "instance_count_error"
value = {count_error:.4f}
split = "the same scenes: sum of |objects - cells| by {num_cells} cells; both of at least {min_area_px} pixels"
command = "python -m models.recipes.unet_cells_measure"

[[quality]]
metric = "coins_separated"
value = {num_coins}
split = \"\"\"
of 24 in scikit-image's photograph coins, as it is, never trained on: coins of which one object has IoU >= {min_iou} \\
with a Sobel and watershed reference; {num_surplus} other objects of at least {min_area_px} pixels\"\"\"
command = "python -m models.recipes.unet_cells_measure"
"""


def card(weights: bytes, figures: Figures, *, num_scenes: int, num_params: int, gflops: float) -> str:
    """Write the card as TOML.

    Args:
        weights: The safetensors file.
        figures: What was measured.
        num_scenes: Scenes trained on.
        num_params: Parameters of the network.
        gflops: Multiply-adds for 256x256 pixels, in units of 10^9.
    """
    return _CARD.format(
        sha256=hashlib.sha256(weights).hexdigest(),
        tile_px=unet_cells_measure.TILE_PX,
        multiple_px=unet_cells_measure.MULTIPLE_PX,
        num_params=num_params,
        gflops=gflops,
        num_scenes=num_scenes,
        held_out=len(unet_cells_measure.HELD_OUT_SEEDS),
        border_px=cells.BORDER_PX,
        iou=", ".join(f"{label} {value:.3f}" for label, value in zip(cells.LABELS, figures.iou, strict=True)),
        mean_iou=figures.mean_iou,
        count_error=figures.count_error,
        num_cells=figures.num_cells,
        min_area_px=unet_cells_measure.MIN_AREA_PX,
        num_coins=figures.num_coins,
        min_iou=unet_cells_measure.MIN_IOU,
        num_surplus=figures.num_surplus,
    )
