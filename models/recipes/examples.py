"""Pictures for a demonstration of every task, with what is true of them; none was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.catalog import Catalog
from models.recipes import cells, digits, pages, stn_canvases, style_patches, style_pictures

NUM_SCENES, NUM_PAGES, NUM_CANVASES, NUM_REASONS, NUM_DIGITS, NUM_FOOLED = 6, 12, 24, 8, 200, 40
STYLISED = {"starry": ("chelsea", "coffee"), "flames": ("astronaut",)}
"""Drawn style → photographs of scikit-image to paint in it; the encoder knows these photographs."""
SEED = 700_000
"""Beyond every seed that training and measuring use."""


@dataclass(frozen=True)
class Example:
    """One task, a model that does it, and a folder of pictures."""

    title: str
    """What is asked, for people."""
    task: str
    """The task."""
    model: str
    """The model."""
    folder: Path
    """Where the pictures were written."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The task's options, without pictures."""
    styles: Sequence[Path] = ()
    """Pictures whose style is wanted."""
    truth: Mapping[str, Any] = field(default_factory=dict)
    """File name → what is true of it: a label, a list of labels, a number of objects, or the corners of a square."""


def write(folder: Path) -> list[Example]:
    """Write the pictures of every task below ``folder``; leaves out models that are not here."""
    folder.mkdir(parents=True, exist_ok=True)
    here = {entry.name for entry in Catalog(None).entries("bundled")}
    tasks = (
        _segmentation, _detection, _spatial_transformer, _embedding, _explanation, _adversarial,
        _feature_visualization, _style_transfer,
    )  # fmt: skip
    return [example for task in tasks for example in task(folder) if example.model in here]


def _segmentation(folder: Path) -> Iterable[Example]:
    scenes = [cells.scene(SEED + index, held_out=True) for index in range(NUM_SCENES)]
    truth = _save(folder / "cells", ((scene.image, scene.count()) for scene in scenes))
    yield Example("Cells in synthetic microscopy", "segmentation", "unet-cells", folder / "cells", truth=truth)


def _detection(folder: Path) -> Iterable[Example]:
    told = [(page.pixels, [str(label) for label in page.labels.tolist()]) for page in pages.examples(NUM_PAGES)]
    truth = _save(folder / "pages", told)
    for model, name in (("fasterrcnn-digits", "Faster R-CNN"), ("yolo-digits", "YOLO")):
        place = folder / f"pages-{name.split()[0].lower()}"
        # Each run has a folder of its own, and the pictures are the same.
        _link(folder / "pages", place)
        # One place holds one digit, whatever its class.
        options = {"class_agnostic_nms": True, "score_threshold": 0.4}
        yield Example(f"Digits on pages, {name}", "detection", model, place, options, truth=truth)


def _spatial_transformer(folder: Path) -> Iterable[Example]:
    drawn = stn_canvases.examples(NUM_CANVASES)
    told = zip(drawn.levels(), map(str, drawn.targets.tolist()), strict=True)
    truth = _save(folder / "canvases", told)
    yield Example(
        "A turned digit somewhere in clutter", "spatial_transformer", "stn-digits", folder / "canvases", truth=truth
    )


def _embedding(folder: Path) -> Iterable[Example]:
    chosen = digits.test_split()[:NUM_DIGITS]
    told = zip(digits.pixels()[chosen], map(str, digits.targets()[chosen].tolist()), strict=True)
    truth = _save(folder / "digits", told)
    options = {"as_artifact": True, "normalize": True}
    yield Example("Features of digits", "embedding", "lenet-digits", folder / "digits", options, truth=truth)


def _explanation(folder: Path) -> Iterable[Example]:
    drawn = stn_canvases.examples(NUM_REASONS)
    truth = _save(folder / "reasons", zip(drawn.levels(), drawn.quads_xy().round(2).tolist(), strict=True))
    for method in ("integrated_gradients", "kernel_shap"):
        place = folder / f"reasons-{method.replace('_', '-')}"
        _link(folder / "reasons", place)
        title = f"What speaks for the digit: {method.replace('_', ' ')}"
        yield Example(title, "explanation", "vgg-digits", place, {"method": method}, truth=truth)


def _adversarial(folder: Path) -> Iterable[Example]:
    chosen = digits.test_split()[:NUM_FOOLED]
    told = zip(digits.pixels()[chosen], map(str, digits.targets()[chosen].tolist()), strict=True)
    truth = _save(folder / "fooled", told)
    options = {"epsilons": [16 / 255, 48 / 255]}
    yield Example(
        "How little it takes to misread a digit", "adversarial", "lenet-digits", folder / "fooled", options, truth=truth
    )


def _feature_visualization(folder: Path) -> Iterable[Example]:
    place = folder / "features"
    _link(folder / "canvases", place)
    options = {"method": "deconvnet", "layers": ["features.relu3_2"], "max_channels": 4}
    yield Example("What excites the third stage, in pixels", "feature_visualization", "vgg-digits", place, options)


def _style_transfer(folder: Path) -> Iterable[Example]:
    options = {"size_px": 288, "steps": 60}
    for style, contents in STYLISED.items():
        place, painted = folder / f"in-{style}", folder / "styles" / style
        _save(place, ((style_patches.photograph(name), None) for name in contents))
        _save(painted, [(style_pictures.STYLES[style](512, SEED), None)])
        yield Example(
            f"Photographs painted in the style of {style}",
            "style_transfer",
            "style-textures",
            place,
            options,
            styles=[painted / "000.png"],
        )


def _save(folder: Path, told: Iterable[tuple[NDArray[np.uint8], Any]]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    truth: dict[str, Any] = {}
    for index, (pixels, what) in enumerate(told):
        name = f"{index:03}.png"
        Image.fromarray(pixels).save(folder / name)
        truth[name] = what
    return truth


def _link(source: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for picture in sorted(source.iterdir()):
        target = place / picture.name
        target.unlink(missing_ok=True)
        target.hardlink_to(picture)
