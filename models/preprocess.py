"""From an upright picture to a network's input, with torchvision's reference arithmetic."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models import geometry
from models.cards import Preprocessing
from models.errors import ImageTooLarge

MAX_RESIZED_PIXELS = 2**25
"""Pictures that would be larger after resizing (very long, very thin ones) are resized only where the crop lies."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocess:
    """Turns upright pictures into inputs as a card says: resize, centre crop, scale, normalise.

    Args:
        preprocessing: The card's table.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._resampling = RESAMPLING[preprocessing.interpolation]
        self._mean = torch.tensor(preprocessing.mean, dtype=torch.float32).view(-1, 1, 1)
        self._std = torch.tensor(preprocessing.std, dtype=torch.float32).view(-1, 1, 1)
        self._there: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, image: Image.Image, full_wh: tuple[int, int] | None = None) -> Tensor:
        """Prepare one picture.

        Args:
            image: Upright, mode RGB or L.
            full_wh: The picture's own size, where ``image`` is a smaller form of it.

        Returns:
            float32 of shape (C, H, W), normalised.

        Raises:
            ImageTooLarge: The picture is so thin that its resized form has too many pixels, and nothing crops it.
        """
        return self.normalise(self.levels(image, full_wh))

    def levels(self, image: Image.Image, full_wh: tuple[int, int] | None = None) -> Tensor:
        """Resize and crop one picture; gives uint8 of shape (C, H, W)."""
        return torch.from_numpy(self.levels_array(image, full_wh))

    def levels_array(self, image: Image.Image, full_wh: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Do the same without torch, whose tensors let other threads interrupt when they are made and when they go."""
        mode = self.preprocessing.mode
        if image.mode != mode:
            image = image.convert(mode)
        image = self._fit(image, full_wh or image.size)
        levels = np.array(image)
        if len(mode) == 1:
            return levels.reshape(1, image.height, image.width)
        return np.ascontiguousarray(levels.transpose(2, 0, 1))

    def levels_there(self, pixels_CHW: Tensor) -> Tensor | None:
        """Resize and crop a decoded picture on the device where it lies, within two levels of what ``levels`` gives.

        Args:
            pixels_CHW: uint8 (3, H, W), upright.

        Returns:
            uint8 of shape (3, H, W) there; ``None`` where only Pillow does what the card says.
        """
        mode, resized_wh = (
            self.preprocessing.interpolation,
            self.resized_there(pixels_CHW.shape[2], pixels_CHW.shape[1]),
        )
        if resized_wh is None:
            return None
        width, height = resized_wh
        if (height, width) != tuple(pixels_CHW.shape[1:]):
            values = nn.functional.interpolate(pixels_CHW[None].float(), (height, width), mode=mode, antialias=True)
            pixels_CHW = values[0].round_().clamp_(0, 255).to(torch.uint8)
        crop_width, crop_height = geometry.crop_size_wh(resized_wh, self.preprocessing)
        left, top = geometry.offset(width, crop_width), geometry.offset(height, crop_height)
        return pixels_CHW[:, top : top + crop_height, left : left + crop_width].contiguous()

    def resized_there(self, width: int, height: int) -> tuple[int, int] | None:
        """Give the size to which ``levels_there`` resizes a picture of a size; ``None`` if it cannot."""
        preprocessing = self.preprocessing
        if preprocessing.mode != "RGB" or preprocessing.interpolation not in ("bilinear", "bicubic"):
            return None
        resized_wh = geometry.resized_size_wh((width, height), preprocessing)
        crop_wh = geometry.crop_size_wh(resized_wh, preprocessing)
        fits = crop_wh[0] <= resized_wh[0] and crop_wh[1] <= resized_wh[1]
        return resized_wh if fits and resized_wh[0] * resized_wh[1] <= MAX_RESIZED_PIXELS else None

    @property
    def enough_px(self) -> int | None:
        """Shorter side of a picture from which the input is as good as from any larger one; unset: it never is.

        Twice the side it is resized to: what was averaged to fewer pixels before is averaged once more.
        """
        resize = self.preprocessing.resize
        if resize is None or self.preprocessing.interpolation == "nearest":
            return None
        return 2 * (resize if isinstance(resize, int) else max(resize))

    def normalise(self, levels: Tensor) -> Tensor:
        """Scale to [0, 1] and normalise; uint8 of shape (..., C, H, W) gives float32 of the same shape and device."""
        if levels.device not in self._there:
            # Copied once: a small copy before each batch would wait for all that a GPU has yet to compute.
            with torch.inference_mode(False):
                self._there[levels.device] = (self._mean.to(levels.device), self._std.to(levels.device))
        mean, std = self._there[levels.device]
        return levels.to(torch.float32).div_(255).sub_(mean).div_(std)

    def _fit(self, image: Image.Image, full_wh: tuple[int, int]) -> Image.Image:
        resized_wh = geometry.resized_size_wh(full_wh, self.preprocessing)
        if resized_wh[0] * resized_wh[1] > MAX_RESIZED_PIXELS:
            return self._fit_thin(image, resized_wh)
        if resized_wh != image.size:
            # The last column and row of a fraction may stand for less than a whole pixel of it.
            fraction = 2 ** round(math.log2(full_wh[0] / image.width))
            image = image.resize(resized_wh, self._resampling, box=(0, 0, full_wh[0] / fraction, full_wh[1] / fraction))
        crop_wh = geometry.crop_size_wh(resized_wh, self.preprocessing)
        if crop_wh == image.size:
            return image
        # torchvision's center_crop does the same, but importing it takes a worker several seconds.
        left, top = (geometry.offset(*sides) for sides in zip(image.size, crop_wh, strict=True))
        return image.crop((left, top, left + crop_wh[0], top + crop_wh[1]))

    def _fit_thin(self, image: Image.Image, resized_wh: tuple[int, int]) -> Image.Image:
        # Pillow keeps the box in single precision, so a level may differ by one from resizing all of it.
        crop_wh = geometry.crop_size_wh(resized_wh, self.preprocessing)
        left, top = (geometry.offset(*sides) for sides in zip(resized_wh, crop_wh, strict=True))
        scale_x, scale_y = (to / of for to, of in zip(resized_wh, image.size, strict=True))
        if crop_wh[0] * crop_wh[1] > MAX_RESIZED_PIXELS or min(left, top) < 0:
            raise ImageTooLarge(
                f"Expected at most {MAX_RESIZED_PIXELS} pixels after resizing, got {resized_wh[0]}x{resized_wh[1]}.",
                size_wh=list(image.size),
            )
        box = (left / scale_x, top / scale_y, (left + crop_wh[0]) / scale_x, (top + crop_wh[1]) / scale_y)
        return image.resize(crop_wh, self._resampling, box=box)


def bounds(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Give what levels of 0 and 1 are in the input's units, per channel: two of float32 (C,)."""
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    return -mean / std, (1 - mean) / std
