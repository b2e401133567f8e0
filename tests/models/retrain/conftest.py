"""Folders of generated pictures, and a base that can tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from models.catalog import Catalog
from models.retrain.base import Base, open_base

COLOURS = {"red": (200, 60, 60), "green": (60, 180, 70), "blue": (50, 70, 210)}
"""Classes that any features tell apart."""

CARD = """
name = "tiny"
tasks = ["classification"]
network = "own:Tiny"
labels = ["a", "b", "c", "d"]
licence = "CC0-1.0"
[weights]
file = "weights.safetensors"
[preprocess]
resize = [16, 16]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
{more}
[provenance]
origin = "a test"
"""

CODE = """
from torch import nn


class Tiny(nn.Module):
    '''Two convolutions with normalisation, and a head that a builder's argument cannot change.'''

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 16, 3), nn.ReLU()
        )
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 4)

    def forward(self, x_NCHW):
        return self.fc(self.drop(self.body(x_NCHW).mean((2, 3))))


def wrapped(logits_NK):
    return {"logits": logits_NK}


class Wrapped(Tiny):
    def forward(self, x_NCHW):
        return wrapped(super().forward(x_NCHW))


def unwrapped(output):
    return output["logits"]


def doubled(logits_NK):
    return 2 * logits_NK


class Doubled(Tiny):
    def forward(self, x_NCHW):
        return 2 * super().forward(x_NCHW)
"""


def picture(colour: tuple[int, int, int], seed: int) -> Image.Image:
    """Draw a noisy picture of one colour."""
    random = np.random.default_rng(seed)
    size = (int(random.integers(20, 40)), int(random.integers(20, 40)), 3)
    pixels = np.asarray(colour) + random.normal(0, 25, size=size)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., Path]:
    def write(
        name: str = "images", *, number: int = 8, classes: tuple[str, ...] = tuple(COLOURS), seed: int = 0
    ) -> Path:
        folder = tmp_path / name
        for class_id, label in enumerate(classes):
            (folder / label).mkdir(parents=True)
            for index in range(number):
                picture(COLOURS[label], seed + 1000 * class_id + index).save(folder / label / f"{index:02}.png")
        return folder

    return write


@pytest.fixture
def models_folder(tmp_path: Path) -> Path:
    """A user's models folder with the base ``tiny``."""
    return write_base(tmp_path / "models")


def write_base(folder: Path, *, network: str = "Tiny", more: str = "") -> Path:
    """Write the base; gives the folder of all models."""
    own = folder / "tiny"
    own.mkdir(parents=True)
    (own / "own.py").write_text(CODE)
    (own / "card.toml").write_text(CARD.format(more=more).replace("own:Tiny", f"own:{network}"))
    names: dict[str, type[nn.Module]] = {}
    exec(CODE, names)
    torch.manual_seed(4)
    save_file(names["Tiny"]().state_dict(), own / "weights.safetensors")
    return folder


@pytest.fixture
def base(models_folder: Path) -> Base:
    return open_base(Catalog(models_folder).find("tiny"), "cpu")
