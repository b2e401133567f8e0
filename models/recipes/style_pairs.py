"""``python -m models.recipes.style_pairs``: paints five content/style pairs, prints how far the loss falls, and writes
a contact sheet of them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from torch import nn

from models.card_tables import StyleTransferDefaults
from models.cards import Preprocessing
from models.catalog import Catalog
from models.gatys import DEFAULT_LAYERS, Encoder, Objective, Painting, Plan, Style, Weights
from models.gatys.pictures import resized, to_tensor
from models.loading import load
from models.recipes.style_patches import photograph
from models.recipes.style_pictures import STYLES

PAIRS = (
    ("chelsea", "starry"),
    ("astronaut", "flames"),
    ("coffee", "glass"),
    ("rocket", "waves"),
    ("camera", "woodcut"),
)
"""A photograph of ``skimage.data``, and a style that is drawn."""
STYLE_SEED, STYLE_PX = 11, 512
"""The drawn styles; the encoder was trained on others."""
SIZE_PX, STEPS = 288, 100
"""Longer side of the pictures, and evaluations."""
MAX_PIXELS = 2**20
"""Most pixels of a device step."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Painted:
    """One pair's picture, and what it took."""

    content: str
    style: str
    pictures: tuple[Pixels, Pixels, Pixels]
    """Content, style and outcome, RGB."""
    first: float
    """Total loss of the initial image."""
    last: float
    """Total loss of the picture."""
    step_ms: float
    """Mean cost of an evaluation."""

    @property
    def fall(self) -> float:
        """By which part the loss fell."""
        return 1 - self.last / self.first


def paint_all(
    network: nn.Module,
    preprocessing: Preprocessing,
    layers: StyleTransferDefaults,
    *,
    size_px: int = SIZE_PX,
    steps: int = STEPS,
) -> Iterator[Painted]:
    """Paint every pair with the usual weights, from the content, with L-BFGS."""
    encoder = Encoder(network, mean=preprocessing.mean, std=preprocessing.std)
    weights = Weights(content_layers=layers.content_layers, style_layers=layers.style_layers)
    for content, style in PAIRS:
        pictures = [_scaled(photograph(content), size_px), _scaled(STYLES[style](STYLE_PX, STYLE_SEED), size_px)]
        tensors = [to_tensor(picture) for picture in pictures]
        objective = Objective(encoder, weights, max_pixels=MAX_PIXELS)
        painting = Painting(objective, tensors[0], [Style(tensors[1])], Plan(steps=steps))
        started = time.monotonic()
        for _ in painting.run():
            pass
        step_ms = 1000 * (time.monotonic() - started) / len(painting.history)
        assert painting.best is not None
        shown = (np.asarray(pictures[0]), np.asarray(pictures[1]), painting.picture())
        yield Painted(
            content, style, shown, painting.history[0].terms.total, painting.best.terms.total, round(step_ms, 1)
        )


def contact_sheet(painted: list[Painted], side_px: int = 320) -> Image.Image:
    """Put each outcome below its content, the style in the content's corner."""
    sheet = Image.new("RGB", (len(painted) * (side_px + 8) + 8, 2 * (side_px + 8) + 30), "white")
    draw = ImageDraw.Draw(sheet)
    for index, pair in enumerate(painted):
        left = 8 + index * (side_px + 8)
        content, style, outcome = (Image.fromarray(pixels) for pixels in pair.pictures)
        small = _square(style, side_px // 3)
        draw.text((left, 6), f"{pair.content} + {pair.style}: loss falls by {pair.fall:.1%}", fill="black")
        sheet.paste(_square(content, side_px), (left, 24))
        sheet.paste(small, (left + side_px - small.width, 24 + side_px - small.height))
        sheet.paste(_square(outcome, side_px), (left, 32 + side_px))
    return sheet


def main() -> None:
    """Parse the command line, paint and print."""
    parser = argparse.ArgumentParser(prog="python -m models.recipes.style_pairs", description=__doc__)
    parser.add_argument("--model", default="style-textures", help="an encoder: style-textures, vgg19 or vgg16")
    parser.add_argument("--size-px", type=int, default=SIZE_PX, help="longer side of the pictures")
    parser.add_argument("--steps", type=int, default=STEPS, help="evaluations of each pair")
    parser.add_argument("--out", type=Path, default=Path("style-pairs.png"), help="where the contact sheet is written")
    arguments = parser.parse_args()
    entry = Catalog(None).find(arguments.model)
    card = entry.card
    run = paint_all(
        load(entry), card.preprocess, card.style_transfer or DEFAULT_LAYERS,
        size_px=arguments.size_px, steps=arguments.steps,
    )  # fmt: skip
    painted = report(run, Console().print)
    contact_sheet(painted).save(arguments.out)


def report(run: Iterator[Painted], tell: Callable[[Table], None]) -> list[Painted]:
    """Print the table of all pairs; gives them."""
    painted = list(run)
    table = Table("content", "style", "initial loss", "final loss", "fall", "ms a step")
    for pair in painted:
        cells = (f"{pair.first:.2f}", f"{pair.last:.2f}", f"{pair.fall:.1%}", f"{pair.step_ms:.0f}")
        table.add_row(pair.content, pair.style, *cells)
    tell(table)
    return painted


def _scaled(pixels: Pixels, longer_px: int) -> Image.Image:
    return resized(Image.fromarray(pixels), longer_px)


def _square(image: Image.Image, side_px: int) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((side_px, side_px), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
