"""The pictures that are sent: those of a folder, or generated ones of the model's kind."""

from __future__ import annotations

import io
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visionpipe.errors import ImageNotFoundError
from visionpipe.runs.scan import Scanner

if TYPE_CHECKING:
    from models.cards import Card

NUM_PICTURES = 64
"""Different pictures; more of them would only be copies in every cache."""
SMALL_PX = 64
"""Networks with inputs up to this side get pictures of their own size, as PNG; others photographs' size, as JPEG."""
PHOTO_WH = (640, 480)
PAGE_PX = 256
"""Side of the pictures for networks that take any size and one channel."""


def pictures_of(card: Card, folder: Path | None) -> list[Path] | list[bytes]:
    """Give the pictures to send: at most ``NUM_PICTURES`` files of a folder, or generated ones.

    Raises:
        ImageNotFoundError: The folder has no images.
    """
    if folder is None:
        return generated(card)
    found = [one.path for one in Scanner(os.fsencode(folder)) if one.skip is None and one.code is None]
    if not found:
        raise ImageNotFoundError(f"There is no image in {str(folder)!r}.")
    chosen = sorted(random.Random(0).sample(found, min(NUM_PICTURES, len(found))))
    return [folder / os.fsdecode(path) for path in chosen]


def generated(card: Card, number: int = NUM_PICTURES) -> list[bytes]:
    """Draw coarse blotches with grain, from a seed: they compress about as photographs do."""
    import numpy as np
    from PIL import Image

    mode, size_hw = card.preprocess.mode, card.preprocess.input_size_hw
    is_small = size_hw is not None and max(size_hw) <= SMALL_PX
    width, height = (size_hw[1], size_hw[0]) if size_hw and is_small else PHOTO_WH if mode == "RGB" else (PAGE_PX,) * 2
    generator, made = np.random.default_rng(0), list[bytes]()
    for index in range(number):
        shape = (max(2, height // 20), max(2, width // 20), len(mode))
        coarse = Image.fromarray(generator.integers(0, 255, shape, dtype=np.uint8).squeeze())
        # One pixel less now and then, so that no two are alike in size for the network's resizing to be cached.
        picture = coarse.resize((width - (0 if is_small else index % 8), height), Image.Resampling.BICUBIC)
        grain = generator.normal(0, 4, (picture.height, picture.width, len(mode))).squeeze()
        picture = Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))
        stream = io.BytesIO()
        picture.save(stream, "PNG" if is_small or mode == "L" else "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


def encoded(pictures: Sequence[Path] | Sequence[bytes]) -> list[bytes]:
    """Read them."""
    return [one if isinstance(one, bytes) else one.read_bytes() for one in pictures]


def fill_folder(folder: Path, pictures: Sequence[Path] | Sequence[bytes], number: int) -> None:
    """Write a folder of so many pictures: each once, and hard links to those."""
    folder.mkdir(parents=True)
    firsts: list[Path] = []
    for index in range(number):
        if index < len(pictures):
            source = pictures[index]
            suffix = source.suffix if isinstance(source, Path) else ".png" if source[:4] == b"\x89PNG" else ".jpg"
            firsts.append(folder / f"{index:06}{suffix}")
            if isinstance(source, Path):
                shutil.copyfile(source, firsts[-1])
            else:
                firsts[-1].write_bytes(source)
        else:
            first = firsts[index % len(firsts)]
            first.with_name(f"{index:06}{first.suffix}").hardlink_to(first)
