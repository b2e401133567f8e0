"""What the contract over all tasks asks of each: a model of ours, pictures it knows, and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionpipe.client import Client


@dataclass(frozen=True)
class Case:
    """One task as one of our models does it."""

    task: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """For quick answers."""
    endless: Mapping[str, Any] | None = None
    """For long work: options with which one item takes minutes; none for tasks that batch."""
    endless_has_image: bool = True
    """Whether those options look at an image."""

    def __str__(self) -> str:
        return f"{self.task}-{self.model}"


CASES = (
    Case("classification", "lenet-digits"),
    Case("embedding", "lenet-digits", {"as_artifact": True}),
    Case("segmentation", "unet-cells", {"rle": True, "instance_map": True}),
    Case("detection", "fasterrcnn-digits"),
    Case("detection", "yolo-digits"),
    Case("spatial_transformer", "stn-digits"),
    Case(
        "style_transfer",
        "style-textures",
        {"steps": 4, "size_px": 64},
        endless={"steps": 10_000, "size_px": 512, "preview_every": 5},
    ),
    Case(
        "explanation",
        "vgg-digits",
        {"method": "integrated_gradients", "steps": 16},
        endless={"method": "lime", "samples": 200_000},
    ),
    Case(
        "adversarial",
        "lenet-digits",
        {"steps": 4},
        endless={"steps": 10_000, "restarts": 100, "epsilons": [1 / 255]},
    ),
    Case(
        "feature_visualization",
        "vgg-digits",
        {"method": "deconvnet", "layers": ["features.relu2_2"], "max_channels": 2},
        endless={"method": "activation_maximization", "steps": 100_000},
        endless_has_image=False,
    ),
)
"""Every task that this version serves; a task that is added belongs here."""

MODELS = tuple(dict.fromkeys(case.model for case in CASES))


def write_pictures(folder: Path, number: int) -> list[Path]:
    """Write different pictures that every task can work on: bright strokes on dark ground."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(number):
        random = np.random.default_rng(index)
        pixels = random.integers(0, 60, size=(64, 96, 3), dtype=np.uint8)
        left = int(random.integers(4, 60))
        pixels[12:52, left : left + 6] = 230
        pixels[12:18, left : left + 24] = 230
        paths.append(folder / f"{index:03}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def with_styles(case: Case, options: Mapping[str, Any], client: Client, picture: Path) -> dict[str, Any]:
    """Complete options that need a further image."""
    if case.task != "style_transfer":
        return dict(options)
    style = client.upload(picture).model_dump(mode="json")
    return {**options, "styles": [{"image": style}]}
