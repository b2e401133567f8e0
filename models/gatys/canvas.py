"""The variables that an optimizer moves, and the picture that they stand for.

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.gatys.colour import with_luminance


class Canvas:
    """A picture as its start plus a change in spatial frequencies, the slow ones the easier to move.

    The change's spectrum is scaled by 1 / f^``FALL`` (after Olah, Mordvintsev, Schubert 2017, who scale by 1 / f):
    the optimizer paints large shapes before fine grain, and no speckle comes in.

    Args:
        start_1CHW: Where to start, values in [0, 1]; one channel for luminance alone.
        colours_1CHW: The picture whose colours are kept, where luminance alone is painted.
    """

    FALL = 0.5

    def __init__(self, start_1CHW: Tensor, colours_1CHW: Tensor | None = None) -> None:
        self._start = start_1CHW
        self._colours = colours_1CHW
        self._scale = _scale(start_1CHW)
        self.variable = torch.zeros_like(start_1CHW, memory_format=torch.contiguous_format).requires_grad_()

    def image(self) -> Tensor:
        """Give what the encoder sees, (1, 3, H, W); differentiable, not confined to [0, 1]."""
        spectrum = torch.fft.rfft2(self.variable) * self._scale
        change = torch.fft.irfft2(spectrum, s=self._start.shape[-2:])
        image: Tensor = (self._start + change).expand(-1, 3, -1, -1)
        return image

    def picture(self, image_1CHW: Tensor) -> Tensor:
        """Turn what ``image`` gave into the picture for people: values in [0, 1], with the colours kept."""
        if self._colours is None:
            return image_1CHW.clamp(0, 1)
        return with_luminance(self._colours, image_1CHW[:, :1].clamp(0, 1))


def _scale(start_1CHW: Tensor) -> Tensor:
    height, width = start_1CHW.shape[-2:]
    down = torch.fft.fftfreq(height, device=start_1CHW.device)[:, None]
    right = torch.fft.rfftfreq(width, device=start_1CHW.device)[None]
    frequency = torch.hypot(down, right).clamp(min=1 / max(height, width))
    scale = frequency**-Canvas.FALL
    return scale / scale.mean()
