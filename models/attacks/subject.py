"""The picture under attack: from the original to what is stored, and back to exactly the attacked pixels.

What is stored is the picture as the card resizes it, not yet cropped. Decoding and preprocessing it again resizes
nothing, and crops exactly what was attacked.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models import geometry
from models.attacks.balls import NORMS
from models.cards import Preprocessing
from models.preprocess import RESAMPLING, Preprocess

MAX_STORED_PIXELS = 2**22
"""Of a resized picture with more pixels only as much is stored around the crop as keeps resizing from touching it."""
MID_GREY = 128
"""What no change looks like."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


class Change(NamedTuple):
    """How much two pictures differ, for values in [0, 1]."""

    linf: float
    """Largest change of any value."""
    l2: float
    """Root of the summed squares."""
    changed: float
    """Share of the pixels that differ at all."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One picture, ready to be attacked.

    Attributes:
        preprocessing: The card's table.
        picture: What is stored before any change, in the card's mode.
        levels: The network's input before normalisation, uint8 (C, H, W), as the original picture gives it.
        box: Where the input lies in the picture; beyond it where the input is padded.
    """

    preprocessing: Preprocessing
    picture: Image.Image
    levels: Tensor
    box: Box
    free: Tensor = field(init=False)
    """Which pixels of the input are pixels of the picture, bool (H, W); the rest is padding, which no file holds."""

    def __post_init__(self) -> None:
        free_HW = torch.zeros(self.levels.shape[1:], dtype=torch.bool)
        left, top, right, bottom = self._inside
        free_HW[top - self.box[1] : bottom - self.box[1], left - self.box[0] : right - self.box[0]] = True
        object.__setattr__(self, "free", free_HW)

    @classmethod
    def of(cls, image: Image.Image, preprocessing: Preprocessing) -> Subject:
        """Resize a picture as the card says.

        Args:
            image: Upright, mode RGB or L.
            preprocessing: The card's table.

        Raises:
            ImageTooLarge: As ``Preprocess``.
        """
        levels_CHW = Preprocess(preprocessing).levels(image)
        image = image.convert(preprocessing.mode)
        resized_wh = geometry.resized_size_wh(image.size, preprocessing)
        crop_wh = geometry.crop_size_wh(resized_wh, preprocessing)
        stored_wh = _stored_size_wh(resized_wh, crop_wh, preprocessing)
        picture = _window(image, resized_wh, stored_wh, crop_wh, preprocessing)
        left, top = (geometry.offset(*sides) for sides in zip(stored_wh, crop_wh, strict=True))
        subject = cls(preprocessing, picture, levels_CHW, (left, top, left + crop_wh[0], top + crop_wh[1]))
        # Only part of a very thin picture is resized, where Pillow may round otherwise.
        subject._paste(picture, levels_CHW)
        return subject

    def altered(self, levels_CHW: Tensor) -> Image.Image:
        """Give the picture to be stored for an attacked input, RGB.

        Args:
            levels_CHW: uint8, equal to this subject's where it is padding.
        """
        picture = self.picture.copy()
        self._paste(picture, levels_CHW)
        return picture.convert("RGB")

    def difference(self, levels_CHW: Tensor, amplify: float) -> Image.Image:
        """Draw the change around mid-grey, RGB: brighter where the attack made the picture brighter."""
        before = _levels(self.picture)
        change = _levels(self.altered(levels_CHW).convert(self.picture.mode)) - before
        shown = np.clip(np.rint(MID_GREY + amplify * change), 0, 255).astype(np.uint8)
        return Image.fromarray(shown).convert("RGB")

    def change(self, stored: Image.Image) -> Change:
        """Measure how a stored picture differs from the picture, over the card's channels."""
        change = _levels(stored.convert(self.picture.mode)) - _levels(self.picture)
        differs_HW = change != 0 if change.ndim == 2 else (change != 0).any(axis=-1)
        linf, l2 = (NORMS[name].norm(NORMS[name].size(change)) for name in ("linf", "l2"))
        return Change(linf, l2, float(differs_HW.mean()))

    @property
    def _inside(self) -> Box:
        """The part of ``box`` that lies in the picture."""
        left, top, right, bottom = self.box
        return max(0, left), max(0, top), min(self.picture.width, right), min(self.picture.height, bottom)

    def _paste(self, picture: Image.Image, levels_CHW: Tensor) -> None:
        left, top, right, bottom = self._inside
        part_CHW = levels_CHW[:, top - self.box[1] : bottom - self.box[1], left - self.box[0] : right - self.box[0]]
        part_HWC = part_CHW.permute(1, 2, 0).cpu().numpy()
        part = Image.fromarray(part_HWC[..., 0] if part_HWC.shape[2] == 1 else np.ascontiguousarray(part_HWC))
        picture.paste(part, (left, top))


def _stored_size_wh(resized_wh: tuple[int, int], crop_wh: tuple[int, int], how: Preprocessing) -> tuple[int, int]:
    if resized_wh[0] * resized_wh[1] <= MAX_STORED_PIXELS or how.crop is None or isinstance(how.resize, tuple):
        return resized_wh
    # A side shorter than the edge that the card resizes to would make that resize again.
    least = how.resize or 1
    width, height = (min(side, max(least, crop)) for side, crop in zip(resized_wh, crop_wh, strict=True))
    return width, height


def _window(
    image: Image.Image,
    resized_wh: tuple[int, int],
    stored_wh: tuple[int, int],
    crop_wh: tuple[int, int],
    how: Preprocessing,
) -> Image.Image:
    """Resize a picture, and keep of it what is stored."""
    resampling = RESAMPLING[how.interpolation]
    if stored_wh == resized_wh:
        return image.copy() if image.size == resized_wh else image.resize(resized_wh, resampling)
    starts = [
        min(geometry.offset(resized, crop) - geometry.offset(stored, crop), resized - stored)
        for resized, stored, crop in zip(resized_wh, stored_wh, crop_wh, strict=True)
    ]
    scale_x, scale_y = (resized / side for resized, side in zip(resized_wh, image.size, strict=True))
    left, top = starts[0] / scale_x, starts[1] / scale_y
    right, bottom = (starts[0] + stored_wh[0]) / scale_x, (starts[1] + stored_wh[1]) / scale_y
    return image.resize(stored_wh, resampling, box=(left, top, min(right, image.width), min(bottom, image.height)))


def _levels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)
