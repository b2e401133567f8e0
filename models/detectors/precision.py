"""Reduced precision where it is safe: convolutions and linear layers compute in it, box arithmetic never does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Cast every floating tensor in nested dicts, lists and tuples; a bfloat16 coordinate is off by pixels."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return type(value)((key, cast(entry, dtype)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return type(value)(cast(entry, dtype) for entry in value)
    return value


def fence(module: nn.Module) -> None:
    """Make a module take and give float32 whatever its weights are kept in."""
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
    if dtype != torch.float32:
        module.register_forward_pre_hook(lambda _, arguments: cast(arguments, dtype))
        module.register_forward_hook(lambda _, __, output: cast(output, torch.float32))
