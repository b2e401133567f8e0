"""Pictures on which a worker compares faster arithmetic with float32 before it trusts it."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from models.catalog import Entry
from models.errors import InvalidCard, InvalidImage
from models.images import decode

NUM_SYNTHETIC = 8
"""Pictures in the synthetic set."""
SIZE_WH = (320, 256)
"""Their size."""
MAX_BYTES = 16 * 2**20
"""Largest file that a card may name."""
MAX_PIXELS = 4096 * 4096
"""Largest picture that a card may name."""


def images(entry: Entry) -> list[Image.Image]:
    """Give the pictures that the card names, or the synthetic set.

    Raises:
        InvalidCard: A picture that the card names is missing or broken.
    """
    if not entry.card.parity or entry.folder is None:
        return [synthetic(seed) for seed in range(NUM_SYNTHETIC)]
    pictures = []
    for name in entry.card.parity:
        try:
            data = (entry.folder / name).read_bytes()
            pictures.append(decode(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS).image)
        except (OSError, InvalidImage) as error:
            raise InvalidCard(f"{entry.name}: parity: {name} cannot be used: {error}", model=entry.name) from error
    return pictures


def synthetic(seed: int) -> Image.Image:
    """Draw one picture with smooth shades, sharp shapes and grain; the same seed gives the same pixels.

    Returns:
        RGB picture of ``SIZE_WH``.
    """
    random = np.random.default_rng(seed)
    width, height = SIZE_WH
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    phase, tilt = random.uniform(0, 2 * np.pi, size=3), random.uniform(1, 9, size=(3, 2))
    shades = np.stack([np.sin(a * x + b * y + p) for (a, b), p in zip(tilt, phase, strict=True)], axis=-1)
    grain = random.normal(0, 8, size=(height, width, 3))
    picture = Image.fromarray(np.clip(127 + 90 * shades + grain, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        left, top = int(random.integers(0, width - 40)), int(random.integers(0, height - 40))
        box = (left, top, left + int(random.integers(20, 160)), top + int(random.integers(20, 120)))
        colour = tuple(int(value) for value in random.integers(0, 256, size=3))
        (draw.ellipse if random.random() < 0.5 else draw.rectangle)(box, fill=colour)
    return picture
