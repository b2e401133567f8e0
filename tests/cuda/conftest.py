"""Tests that need a CUDA device: skipped with a reason where there is none, unless one is required."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

REQUIRED = "VISIONPIPE_CUDA_REQUIRED"
"""Set by ``make gpu-check``: a missing device is then a failure, since a check that tests nothing must not pass."""


@pytest.fixture(autouse=True)
def _needs_cuda(request: pytest.FixtureRequest) -> Iterator[None]:
    assert request.node.get_closest_marker("cuda") is not None, "mark it, so that it can be chosen"
    if not torch.cuda.is_available():
        reason = "torch sees no CUDA device; run deploy/gpu_check/check.py on a machine with one"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda:0")
