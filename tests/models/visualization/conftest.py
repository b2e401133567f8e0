"""Small networks of AlexNet's and VGG's kind, with weights drawn from a seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.visualization import Survey


def network(in_channels: int = 3, *, inplace: bool = True) -> nn.Sequential:
    """A strided convolution as AlexNet begins, then 3x3 ones, poolings that keep switches, and a linear layer."""
    torch.manual_seed(7)
    made = nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, stride=2, padding=2),
        nn.ReLU(inplace=inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 10, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.Flatten(),
        nn.Linear(10 * 4 * 4, 5),
    ).eval()
    return made.requires_grad_(False)


@pytest.fixture(scope="module")
def survey() -> Survey:
    return Survey(network(), torch.zeros(1, 3, 32, 32))


@pytest.fixture
def image() -> torch.Tensor:
    """One input (1, 3, 32, 32)."""
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
