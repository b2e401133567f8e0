"""Questions that the tests of attribution share.

Shape suffixes: N images, 1 one image, C channels, H height, W width, K classes, M superpixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.attribution import Question


class Small(nn.Module):
    """A convolutional network with fixed random weights: three channels, four classes."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.act1, self.act2 = activation or nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(8, 4)
        self.requires_grad_(False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = self.act2(2 * self.second(self.act1(2 * self.first(x_NCHW))))
        logits_NK: Tensor = 5 * self.head(x_NCHW.mean(dim=(2, 3)))
        return logits_NK


class Switched(nn.Module):
    """A game: the logit of class 0 is a function of which superpixels of an image of ones are shown."""

    def __init__(self, value: Callable[[Tensor], Tensor], segments_HW: np.ndarray[Any, Any]) -> None:
        super().__init__()
        self._value = value
        pieces = int(segments_HW.max()) + 1
        members_MHW = torch.stack([torch.from_numpy(segments_HW == index) for index in range(pieces)])
        self._means_MD = members_MHW.flatten(1).double() / members_MHW.sum((1, 2))[:, None]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        shown_NM = x_NCHW[:, 0].flatten(1).double() @ self._means_MD.T
        value_N = self._value(shown_NM)
        return torch.stack([value_N, -value_N], dim=1)


def ask(network: nn.Module, *, seed: int = 1, size_hw: tuple[int, int] = (16, 12), **changes: Any) -> Question:
    """Ask about a random image, with the mean colour as the baseline."""
    random = torch.Generator().manual_seed(seed)
    x_1CHW = torch.randn(1, 3, *size_hw, generator=random)
    fields: dict[str, Any] = {
        "target": 1,
        "baseline_1CHW": torch.zeros_like(x_1CHW),
        "low_C": torch.full((3,), -2.0),
        "high_C": torch.full((3,), 2.0),
        **changes,
    }
    return Question(network.eval(), fields.pop("x_1CHW", x_1CHW), **fields)


def play(value: Callable[[Tensor], Tensor], *, rows: int, columns: int) -> Question:
    """Ask about a game of rows x columns superpixels of 2x2 pixels each, shown on black."""
    segments_HW = np.arange(rows * columns).reshape(rows, columns).repeat(2, 0).repeat(2, 1)
    x_1CHW = torch.ones(1, 1, *segments_HW.shape)
    return Question(
        Switched(value, segments_HW), x_1CHW, 0, torch.zeros_like(x_1CHW), torch.zeros(1), torch.ones(1),
        segments_HW=segments_HW,
    )  # fmt: skip
