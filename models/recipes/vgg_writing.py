"""Writes the card of ``vgg-digits``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from models.recipes.canvas_writing import facts

COMMAND = "python -m models.recipes vgg-digits"
"""What a reader types."""

_CARD = """\
name = "vgg-digits"
tasks = ["classification", "embedding"]
description = "Small VGG that reads one handwritten digit anywhere in clutter, bright on black; made to be explained"
network = "vgg_small"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
parity = [{parity}]
licence = "Apache-2.0"

[arguments]
{arguments}

[weights]
file = "weights.safetensors"
sha256 = "{sha256}"

[preprocess]
mode = "L"
resize = [{canvas_px}, {canvas_px}]
interpolation = "bilinear"
mean = [{mean}]
std = [{std}]

[serving]
max_batch = 128

[cost]
num_params = {num_params}
gflops = {gflops:.6f}
min_size_hw = [{canvas_px}, {canvas_px}]

[provenance]
origin = \"\"\"
Simonyan and Zisserman 2014 (VGG), much smaller; trained from scratch by this project's recipe\"\"\"
data = \"\"\"
scikit-learn load_digits: 1,797 pictures, the test part of the UCI set Optical Recognition of Handwritten Digits \\
(E. Alpaydin, C. Kaynak), CC BY 4.0\"\"\"
command = "{command}"
notes = \"\"\"
The canvases of stn-digits: digits enlarged to {digit_px} px, turned by up to 45 degrees either way, scaled by 0.7 to \\
1.2, anywhere on a canvas of {canvas_px} px, among pieces of other digits, strokes and grain. \\
Split by class with seed {split_seed}: {num_test} digits held out (models.recipes.digits.test_split), from which \\
alone the canvases that measure are drawn, pieces included (seed {held_out_seed}); training drew {num_canvases} \\
canvases of the other {num_training} (seed {seed}). Nothing was tuned: a \\
pilot without {num_validation} of these, kept for validation, gave 99.4 % of 2,160 canvases of those. \\
Only the class was told, never the place. The distortion grew from none, digits as large as the canvas, to the full \\
one in the first {curriculum:.0%} of {steps} steps.
3x3 convolutions, ReLU and max pooling without normalisation, every layer a module with a name of its own.
Held-out canvases, true digit by row, answer by column:
{confusion}\"\"\"

[[quality]]
metric = "accuracy"
value = {accuracy:.6f}
split = "{num_held_out} canvases of the {num_test} held-out digits (models.recipes.stn_canvases.held_out)"
command = "{command}"
"""


def card(
    weights: bytes,
    network: nn.Module,
    *,
    arguments: dict[str, Any],
    normalisation: tuple[float, float],
    training: dict[str, Any],
    accuracy: float,
    confusion: NDArray[np.int64],
) -> str:
    """Write the card as TOML.

    Args:
        weights: The safetensors file.
        network: What they are for.
        arguments: What the network is built with.
        normalisation: Mean and standard deviation that the input is normalised with.
        training: ``seed``, ``steps``, ``num_canvases`` and ``curriculum``, the part of the steps in which it grew.
        accuracy: On the held-out canvases, a fraction of 1.
        confusion: Shape (10, 10), true digit by row, answer by column.
    """
    return _CARD.format(
        **training,
        **facts(weights, network, arguments, confusion),
        mean=normalisation[0],
        std=normalisation[1],
        command=COMMAND,
        accuracy=accuracy,
    )
