"""Writes the cards of the models that our recipes train."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.recipes import digits

_LENET = """\
name = "lenet-digits"
tasks = ["classification", "embedding"]
description = "LeNet-5 for single handwritten digits, bright ink on black, as in scikit-learn's 8x8 set"
network = "lenet5"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
parity = [{parity}]
licence = "Apache-2.0"

[arguments]
num_classes = 10
in_channels = 1

[weights]
file = "weights.safetensors"
sha256 = "{sha256}"

[preprocess]
mode = "L"
resize = [32, 32]
interpolation = "bilinear"
mean = [0.3055]
std = [0.3235]

[serving]
max_batch = 256

[cost]
num_params = 61706
gflops = 0.000416
min_size_hw = [32, 32]

[provenance]
origin = "LeCun, Bottou, Bengio, Haffner 1998 (LeNet-5); trained from scratch by this project's recipe"
data = \"\"\"
scikit-learn load_digits: 1,797 pictures, the test part of the UCI set Optical Recognition of Handwritten Digits \\
(E. Alpaydin, C. Kaynak), CC BY 4.0\"\"\"
command = "python -m models.recipes lenet-digits"
notes = \"\"\"
Split by class with seed {seed}: {num_test} digits held out (models.recipes.digits.test_split), {num_validation} of \\
the other {num_training} chose {epochs} epochs, then all {num_training} were trained on. \\
Turned, scaled, sheared and shifted a little in training.
Held-out digits, true digit by row, answer by column:
{confusion}\"\"\"

[[quality]]
metric = "accuracy"
value = {accuracy:.6f}
split = "{num_test} held-out digits of scikit-learn load_digits (models.recipes.digits.test_split)"
command = "python -m models.recipes lenet-digits"
"""


def lenet_card(weights: bytes, *, accuracy: float, epochs: int, confusion: NDArray[np.int64]) -> str:
    """Write the card of ``lenet-digits`` as TOML.

    Args:
        weights: The safetensors file.
        accuracy: On the held-out digits, a fraction of 1.
        epochs: As chosen by the validation digits.
        confusion: int64 of shape (10, 10), true digit by row, answer by column.
    """
    return _LENET.format(
        parity=", ".join(f'"parity/{digit}.png"' for digit in range(10)),
        sha256=hashlib.sha256(weights).hexdigest(),
        seed=digits.SPLIT_SEED,
        num_test=len(digits.test_split()),
        num_validation=len(digits.validation_split()),
        num_training=len(digits.training_split()),
        epochs=epochs,
        confusion="\n".join(" ".join(f"{count:2d}" for count in row) for row in confusion),
        accuracy=accuracy,
    )
