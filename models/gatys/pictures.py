"""Pictures to tensors of the size wanted, and back.

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]


def fitted_size_wh(size_wh: tuple[int, int], longer_px: int) -> tuple[int, int]:
    """Scale a size so that its longer side is as asked; the aspect ratio is kept to the nearest pixel."""
    width, height = size_wh
    scale = longer_px / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(image: Image.Image, longer_px: int) -> Image.Image:
    """Bring a picture's longer side to a length, with Lanczos' filter; gives RGB."""
    size_wh = fitted_size_wh(image.size, longer_px)
    # Shrunk first where that saves converting what is thrown away.
    if size_wh[0] <= image.width and image.mode == "RGB":
        return image.resize(size_wh, Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image.convert("RGB").resize(size_wh, Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """Give an RGB picture as float32 (1, 3, H, W) in [0, 1]."""
    levels_HWC = torch.from_numpy(np.array(image, dtype=np.uint8))
    return levels_HWC.permute(2, 0, 1)[None].float().div(255).contiguous()


def to_pixels(picture_1CHW: Tensor) -> Pixels:
    """Give values in [0, 1] as uint8 (H, W, 3)."""
    levels_CHW = (picture_1CHW[0].detach() * 255).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = levels_CHW.permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels)
