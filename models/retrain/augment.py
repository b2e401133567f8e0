"""Small random changes of prepared pictures that leave their class what it is.

Shape suffixes: N images, C channels, H height, W width; 1, 2 and 3 are themselves.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.retrain.options import Augmentation

MAX_TURN = math.radians(10)
"""Largest rotation to either side."""
MAX_SCALE = 0.1
"""Largest relative change of size."""
MAX_SHEAR = 0.1
"""Largest horizontal shear."""
MAX_SHIFT = 0.08
"""Largest shift, as a fraction of half the picture."""
MAX_CONTRAST = 0.2
"""Largest relative change of contrast."""
MAX_BRIGHTNESS = 0.2
"""Largest change of brightness, in the input's own standard deviations."""


def augmented(inputs_NCHW: Tensor, kind: Augmentation, random: torch.Generator) -> Tensor:
    """Vary each picture on its own; what is uncovered at the border repeats the picture's edge.

    Args:
        inputs_NCHW: Normalised pictures, float32.
        kind: ``light`` turns, scales, shears, shifts and relights; ``flip`` also mirrors every second one; ``none``
            gives back what came.
        random: On the CPU, so that every device sees the same changes.

    Returns:
        float32 of the same shape.
    """
    if kind == "none":
        return inputs_NCHW
    num = len(inputs_NCHW)
    turn, scale, shear, shift_x, shift_y, contrast, brightness = 2 * torch.rand(7, num, generator=random) - 1
    mirror = torch.where(torch.rand(num, generator=random) < 0.5, -1.0, 1.0) if kind == "flip" else torch.ones(num)
    turn, scale, shear = turn * MAX_TURN, 1 + scale * MAX_SCALE, shear * MAX_SHEAR
    top = torch.stack([mirror * scale * turn.cos(), shear - scale * turn.sin(), shift_x * MAX_SHIFT], dim=1)
    bottom = torch.stack([mirror * scale * turn.sin(), scale * turn.cos(), shift_y * MAX_SHIFT], dim=1)
    theta_N23 = torch.stack([top, bottom], dim=1).to(inputs_NCHW)
    grid_NHW2 = nn.functional.affine_grid(theta_N23, list(inputs_NCHW.shape), align_corners=False)
    moved_NCHW: Tensor = nn.functional.grid_sample(inputs_NCHW, grid_NHW2, padding_mode="border", align_corners=False)
    gain_N111 = (1 + contrast * MAX_CONTRAST).view(-1, 1, 1, 1).to(inputs_NCHW)
    offset_N111 = (brightness * MAX_BRIGHTNESS).view(-1, 1, 1, 1).to(inputs_NCHW)
    return torch.addcmul(offset_N111, moved_NCHW, gain_N111)
