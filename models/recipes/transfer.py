"""``python -m models.recipes.transfer``: how far features reach that were learned from other digits, in a minute.

A small network learns to tell the digits 0 to 6 apart and never sees a 7, 8 or 9. Its last layer is then retrained on
20 examples each of 7, 8 and 9, through ``models.retrain`` as the command line does it, and measured on all held-out
7, 8 and 9. That is done for several draws of the 20 examples.

Shape suffixes: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor, nn

from models.cards import Card, Preprocessing, Provenance, Quality, Weights
from models.preprocess import Preprocess
from models.recipes import digits
from models.recipes.lenet_digits import augmented
from models.retrain import toml
from models.retrain.options import Mode, RetrainOptions
from models.retrain.run import Retrained, retrain

SEED = 1998
"""Seed of the base's initialisation, order and augmentation."""
KNOWN, NEW = range(7), range(7, 10)
"""The digits that the base learns, and those that it never sees."""
NUM_EXAMPLES = 20
"""Examples of each new digit, those that validate included."""
DRAWS = 20
"""How often the examples are drawn anew."""
EPOCHS = 15
"""Chosen on the training part's validation digits, as is the network's size."""
BATCH = 32
"""Digits in one step."""
PEAK_RATE = 4e-3
"""Highest learning rate of the one-cycle schedule."""
PREPROCESSING = Preprocessing(mode="L", resize=(16, 16), mean=[0.3055], std=[0.3235])
"""Twice the data's own size."""
BASE = "digits-0-to-6"
"""The base's name."""
MODES: tuple[Mode, ...] = ("head", "svm")
"""Both ways to use frozen features."""


class DigitNet(nn.Module):
    """Five convolutions with batch normalisation; the last maps are averaged in quarters.

    Args:
        num_classes: K, the number of outputs.
        width: Channels of the first two convolutions.
    """

    def __init__(self, *, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(1, width),
            _convolution(width, width),
            nn.MaxPool2d(2),
            _convolution(width, 2 * width),
            _convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            _convolution(2 * width, 4 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(16 * width, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Classify; gives logits of shape (N, K) for inputs of shape (N, 1, 16, 16)."""
        features_ND = self.pool(self.body(x_NCHW)).flatten(1)
        logits_NK: Tensor = self.head(features_ND)
        return logits_NK


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    layer = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def train_base(models_folder: Path, *, epochs: int = EPOCHS) -> float:
    """Train the base on the known digits of the training part, and write it as a user's model.

    Args:
        models_folder: Where its folder is written.
        epochs: Passes over them.

    Returns:
        Accuracy on the held-out known digits, a fraction of 1.
    """
    inputs_NCHW = torch.stack([Preprocess(PREPROCESSING)(Image.fromarray(pixels)) for pixels in digits.pixels()])
    network = _fit(inputs_NCHW, _of(digits.training_split(), KNOWN), epochs)
    held_out = _of(digits.test_split(), KNOWN)
    with torch.inference_mode():
        answers = network(inputs_NCHW[held_out]).argmax(dim=1).numpy()
    accuracy = float((answers == digits.targets()[held_out]).mean())
    folder = models_folder / BASE
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    card = Card(
        name=BASE,
        tasks=["classification", "embedding"],
        network=f"models.recipes.transfer:{DigitNet.__name__}",
        arguments={"num_classes": len(KNOWN)},
        weights=Weights(file="weights.safetensors"),
        labels=[str(digit) for digit in KNOWN],
        preprocess=PREPROCESSING,
        licence="Apache-2.0",
        provenance=Provenance(origin="models.recipes.transfer"),
        quality=[Quality(metric="accuracy", value=accuracy, split=f"{len(held_out)} held-out digits 0 to 6")],
    )
    text = toml.dumps(card.model_dump(mode="json", exclude_defaults=True, exclude_none=True))
    (folder / "card.toml").write_text(text, encoding="utf-8")
    return accuracy


def write_digits(folder: Path, indices: NDArray[np.int64]) -> None:
    """Write digits as PNG files, one sub-folder per class."""
    for index in indices:
        path = folder / str(digits.targets()[index]) / f"{index:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.pixels()[index]).save(path)


def draw_examples(seed: int) -> NDArray[np.int64]:
    """Draw the examples of the new digits from the training part; gives their indices."""
    random = np.random.default_rng(seed)
    training = digits.training_split()
    drawn = [random.choice(_of(training, [digit]), NUM_EXAMPLES, replace=False) for digit in NEW]
    return np.sort(np.concatenate(drawn))


def transfer(folder: Path, mode: Mode, draw: int) -> Retrained:
    """Retrain on one draw of examples, and measure on the held-out new digits.

    Args:
        folder: Holds ``models`` with the base in it, and ``held-out`` with the digits to measure on.
        mode: How.
        draw: Seed of the draw, and of the retraining.
    """
    examples = folder / f"draw-{draw}"
    if not examples.is_dir():
        write_digits(examples, draw_examples(draw))
    return retrain(
        BASE,
        examples,
        f"digits-7-to-9-{mode}-{draw}",
        folder / "models",
        options=RetrainOptions(mode=mode, seed=draw),
        test_images=folder / "held-out",
    )


def measure(folder: Path, draws: int, report: Callable[[str], None]) -> dict[Mode, list[float]]:
    """Train the base, retrain it on every draw in every mode; gives the accuracies on the held-out new digits."""
    started = time.monotonic()
    accuracy = train_base(folder / "models")
    report(f"base: {accuracy:.2%} of the held-out digits 0 to 6 right, {time.monotonic() - started:.0f} s")
    write_digits(folder / "held-out", _of(digits.test_split(), NEW))
    found: dict[Mode, list[float]] = {mode: [] for mode in MODES}
    for draw in range(draws):
        for mode in MODES:
            found[mode].append(transfer(folder, mode, draw).measured[0].accuracy)
        report(f"draw {draw}: " + ", ".join(f"{mode} {values[-1]:.2%}" for mode, values in found.items()))
    return found


def main() -> None:
    """Parse the command line, measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes.transfer", description=__doc__.split("\n")[0])
    parser.add_argument("--draws", type=int, default=DRAWS, help="how often the 20 examples are drawn anew")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.draws, console.print)
    num_held_out = len(_of(digits.test_split(), NEW))
    title = f"{NUM_EXAMPLES} examples each of 7, 8, 9; {num_held_out} held-out digits; {arguments.draws} draws"
    table = Table("mode", "mean accuracy", "worst", "best")
    for mode, values in found.items():
        table.add_row(mode, f"{np.mean(values):.2%}", f"{min(values):.2%}", f"{max(values):.2%}")
    console.print(title)
    console.print(table)


def _of(indices: NDArray[np.int64], classes: range | list[int]) -> NDArray[np.int64]:
    return indices[np.isin(digits.targets()[indices], list(classes))]


def _fit(inputs_NCHW: Tensor, indices: NDArray[np.int64], epochs: int) -> DigitNet:
    torch.manual_seed(SEED)
    random = torch.Generator().manual_seed(SEED)
    targets_N = torch.from_numpy(digits.targets())
    network = DigitNet(num_classes=len(KNOWN))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    steps = epochs * math.ceil(len(indices) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for _ in range(epochs):
        order = torch.from_numpy(indices)[torch.randperm(len(indices), generator=random)]
        for chosen in torch.tensor_split(order, math.ceil(len(order) / BATCH)):
            logits_NK = network(augmented(inputs_NCHW[chosen], random))
            loss = nn.functional.cross_entropy(logits_NK, targets_N[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()


if __name__ == "__main__":
    main()
