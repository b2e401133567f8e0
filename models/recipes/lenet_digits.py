"""Trains ``lenet-digits``: LeNet-5 on scikit-learn's handwritten digits, in about a minute on two cores.

Shape suffixes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save
from torch import Tensor, nn

from models.cards import Preprocessing
from models.networks.lenet import LeNet5
from models.preprocess import Preprocess
from models.recipes import digits, writing

SEED = 1998
"""Seed of initialisation, order and augmentation."""
EPOCHS_TRIED = (10, 20, 40, 80)
"""The validation digits choose one of these."""
BATCH = 32
"""Digits in one step."""
PEAK_RATE = 6e-3
"""Highest learning rate of the one-cycle schedule."""
PREPROCESSING = Preprocessing(mode="L", resize=(32, 32), interpolation="bilinear", mean=[0.3055], std=[0.3235])
"""The digits' own mean and deviation, after resizing to what LeNet-5 expects."""
COMMAND = "python -m models.recipes lenet-digits"
"""What a reader types."""

_MAX_TURN = math.radians(12)
_MAX_SCALE = 0.12
_MAX_SHEAR = 0.15
_MAX_SHIFT = 0.12

Indices = NDArray[np.int64]


def train(folder: Path, *, report: Callable[[str], None]) -> float:
    """Choose the number of epochs, train on the whole training part, measure on the held-out digits, write the model.

    Args:
        folder: Where ``card.toml``, the weights and the parity pictures are written.
        report: Told of each step, in one line.

    Returns:
        Accuracy on the held-out digits, a fraction of 1.
    """
    # One thread adds up in one order, so that the same machine gives the same bytes.
    torch.set_num_threads(1)
    inputs_NCHW = prepared()
    validation, training, held_out = digits.validation_split(), digits.training_split(), digits.test_split()
    fitted = np.setdiff1d(training, validation)
    losses = {}
    for epochs in EPOCHS_TRIED:
        network = fit(inputs_NCHW, fitted, epochs=epochs)
        losses[epochs], right = measure(network, inputs_NCHW, validation)
        report(f"{epochs} epochs: validation loss {losses[epochs]:.4f}, {right.mean():.2%} right")
    epochs = min(losses, key=losses.__getitem__)
    network = fit(inputs_NCHW, training, epochs=epochs)
    _, right = measure(network, inputs_NCHW, held_out)
    accuracy = float(right.mean())
    report(f"{epochs} epochs on all {len(training)} training digits: {accuracy:.2%} of {len(held_out)} held-out right")
    (folder / "parity").mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    (folder / "weights.safetensors").write_bytes(weights)
    for digit in range(10):
        drawn_digit(digit).save(folder / "parity" / f"{digit}.png")
    confusion = confusion_matrix(network, inputs_NCHW, held_out)
    card = writing.lenet_card(weights, accuracy=accuracy, epochs=epochs, confusion=confusion)
    (folder / "card.toml").write_text(card, encoding="utf-8")
    return accuracy


def prepared() -> Tensor:
    """Give every digit as the network sees it: float32 of shape (1797, 1, 32, 32)."""
    preprocess = Preprocess(PREPROCESSING)
    return torch.stack([preprocess(Image.fromarray(pixels)) for pixels in digits.pixels()])


def fit(inputs_NCHW: Tensor, indices: Indices, *, epochs: int) -> LeNet5:
    """Train a fresh network on some of the digits; gives it in eval mode."""
    torch.manual_seed(SEED)
    random = torch.Generator().manual_seed(SEED)
    targets_N = torch.from_numpy(digits.targets())
    network = LeNet5()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    steps = epochs * math.ceil(len(indices) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    network.train()
    for _ in range(epochs):
        order = indices[torch.randperm(len(indices), generator=random).numpy()]
        for start in range(0, len(order), BATCH):
            chosen = torch.from_numpy(order[start : start + BATCH])
            logits_NK = network(augmented(inputs_NCHW[chosen], random))
            loss = nn.functional.cross_entropy(logits_NK, targets_N[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()


def augmented(inputs_NCHW: Tensor, random: torch.Generator) -> Tensor:
    """Turn, scale, shear and shift each picture a little; the uncovered border is background."""
    num = len(inputs_NCHW)
    turn, scale, shear, shift_x, shift_y = 2 * torch.rand(5, num, generator=random) - 1
    turn, scale, shear = turn * _MAX_TURN, 1 + scale * _MAX_SCALE, shear * _MAX_SHEAR
    top = torch.stack([scale * turn.cos(), shear - scale * turn.sin(), shift_x * _MAX_SHIFT], dim=1)
    bottom = torch.stack([scale * turn.sin(), scale * turn.cos(), shift_y * _MAX_SHIFT], dim=1)
    grid = nn.functional.affine_grid(torch.stack([top, bottom], dim=1), list(inputs_NCHW.shape), align_corners=False)
    # grid_sample fills with 0, which is not the background once the input is normalised.
    background = -PREPROCESSING.mean[0] / PREPROCESSING.std[0]
    return nn.functional.grid_sample(inputs_NCHW - background, grid, align_corners=False) + background


@torch.inference_mode()
def measure(network: nn.Module, inputs_NCHW: Tensor, indices: Indices) -> tuple[float, NDArray[np.bool_]]:
    """Give the mean cross-entropy, and for each digit whether it was told right."""
    targets_N = torch.from_numpy(digits.targets())[indices]
    logits_NK = network(inputs_NCHW[indices])
    loss = float(nn.functional.cross_entropy(logits_NK, targets_N))
    return loss, (logits_NK.argmax(dim=1) == targets_N).numpy()


@torch.inference_mode()
def confusion_matrix(network: nn.Module, inputs_NCHW: Tensor, indices: Indices) -> NDArray[np.int64]:
    """Count the digits: int64 of shape (10, 10), true digit by row, answer by column."""
    answers = network(inputs_NCHW[indices]).argmax(dim=1).numpy()
    counts = np.zeros((10, 10), dtype=np.int64)
    np.add.at(counts, (digits.targets()[indices], answers), 1)
    return counts


def drawn_digit(digit: int) -> Image.Image:
    """Draw a digit in Pillow's own font as the data has them: mode L, 8x8, ink bright on black."""
    large = Image.new("L", (64, 64))
    font = ImageFont.load_default(size=76)
    ImageDraw.Draw(large).text((32, 32), str(digit), fill=255, font=font, anchor="mm", stroke_width=1)
    return large.resize((8, 8), Image.Resampling.BOX)
