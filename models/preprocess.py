"""From an upright picture to a network's input, with torchvision's reference arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from models.cards import Preprocessing

_RESAMPLING = {
    "nearest": functional.InterpolationMode.NEAREST,
    "bilinear": functional.InterpolationMode.BILINEAR,
    "bicubic": functional.InterpolationMode.BICUBIC,
    "lanczos": functional.InterpolationMode.LANCZOS,
}


class Preprocess:
    """Turns upright pictures into inputs as a card says: resize, centre crop, scale, normalise.

    Args:
        preprocessing: The card's table.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._mean = torch.tensor(preprocessing.mean, dtype=torch.float32).view(-1, 1, 1)
        self._std = torch.tensor(preprocessing.std, dtype=torch.float32).view(-1, 1, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """Prepare one picture.

        Args:
            image: Upright, mode RGB or L.

        Returns:
            float32 of shape (C, H, W), normalised.
        """
        wanted = self.preprocessing
        if image.mode != wanted.mode:
            image = image.convert(wanted.mode)
        if wanted.resize is not None:
            size = [wanted.resize] if isinstance(wanted.resize, int) else list(wanted.resize)
            image = functional.resize(image, size, interpolation=_RESAMPLING[wanted.interpolation])
        if wanted.crop is not None:
            size = [wanted.crop] if isinstance(wanted.crop, int) else list(wanted.crop)
            image = functional.center_crop(image, size)
        levels_HWC = np.array(image).reshape(image.height, image.width, len(wanted.mode))
        unit_CHW = torch.from_numpy(levels_HWC).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
        return unit_CHW.sub_(self._mean).div_(self._std)
