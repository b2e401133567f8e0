"""``python -m models.recipes NAME [--out FOLDER]``: train one bundled model anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from models.catalog import BUNDLED_FOLDER
from models.recipes import (
    fasterrcnn_digits,
    lenet_digits,
    stn_digits,
    style_textures,
    unet_cells,
    vgg_digits,
    yolo_digits,
)

RECIPES = {
    "fasterrcnn-digits": fasterrcnn_digits.train,
    "lenet-digits": lenet_digits.train,
    "stn-digits": stn_digits.train,
    "style-textures": style_textures.train,
    "unet-cells": unet_cells.train,
    "vgg-digits": vgg_digits.train,
    "yolo-digits": yolo_digits.train,
}
"""Name of the model → function that trains it and writes its folder."""


def main() -> None:
    """Parse the command line and run one recipe."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes", description="Train one bundled model anew.")
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=BUNDLED_FOLDER, help="where the model's folder is written")
    arguments = parser.parse_args()
    console = Console()
    RECIPES[arguments.name](arguments.out / arguments.name, report=console.print)


if __name__ == "__main__":
    main()
