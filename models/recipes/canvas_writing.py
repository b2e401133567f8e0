"""What the cards of the models that read digits on canvases have in common."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.recipes import digits, stn_canvases


def facts(
    weights: bytes, network: nn.Module, arguments: dict[str, Any], confusion: NDArray[np.int64]
) -> dict[str, object]:
    """Give what fills both cards, by the names in their texts.

    Args:
        weights: The safetensors file.
        network: What they are for.
        arguments: What the network is built with.
        confusion: Shape (10, 10), true digit by row, answer by column.
    """
    return {
        "parity": ", ".join(f'"parity/{digit}.png"' for digit in range(10)),
        "arguments": "\n".join(f"{name} = {json.dumps(value)}" for name, value in arguments.items()),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "canvas_px": stn_canvases.CANVAS_PX,
        "digit_px": stn_canvases.DIGIT_PX,
        "num_params": sum(parameter.numel() for parameter in network.parameters()),
        "gflops": multiply_adds(network) / 1e9,
        "split_seed": digits.SPLIT_SEED,
        "held_out_seed": stn_canvases.HELD_OUT_SEED,
        "num_held_out": stn_canvases.NUM_HELD_OUT,
        "num_test": len(digits.test_split()),
        "num_training": len(digits.training_split()),
        "num_validation": len(digits.validation_split()),
        "confusion": "\n".join(" ".join(f"{count:3d}" for count in row) for row in confusion),
    }


def multiply_adds(network: nn.Module) -> int:
    """Count the multiply-adds of one canvas."""
    side = stn_canvases.CANVAS_PX
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 1, side, side))
    # The counter counts a multiplication and an addition as two.
    return int(counter.get_total_flops()) // 2
