"""A tiny encoder of two blocks, with weights from a seed."""

from __future__ import annotations

import pytest
import torch

from models.gatys import Encoder
from models.networks.style_encoder import StyleEncoder


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    network = StyleEncoder(widths=(5, 7), depths=(2, 1)).eval().requires_grad_(False)
    return Encoder(network, mean=[0.5] * 3, std=[0.25] * 3)


@pytest.fixture
def content() -> torch.Tensor:
    return noise(1, (20, 28))


@pytest.fixture
def style() -> torch.Tensor:
    return noise(2, (17, 24)).square()


def noise(seed: int, size_hw: tuple[int, int]) -> torch.Tensor:
    return torch.rand((1, 3, *size_hw), generator=torch.Generator().manual_seed(seed))
