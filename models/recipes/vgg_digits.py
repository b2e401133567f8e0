"""Trains ``vgg-digits``: a plain convolutional network that reads a digit anywhere in clutter.

Its canvases are those of ``stn-digits``, which say where the digit is: what explains this network can be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.networks.vgg_small import VggSmall
from models.recipes import canvas_training, digits, stn_canvases, vgg_writing
from models.recipes.canvas_training import Measured, Plan, class_loss
from models.recipes.stn_canvases import Canvases, Ink

SEED = 2014
"""Seed of initialisation, canvases and order."""
ARGUMENTS: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "input_px": 64}
"""What the network is built with."""
MEAN, STD = 0.15, 0.25
"""Of the canvases' levels, about."""
STEPS, BATCH = 2000, 128
"""Optimisation steps, and canvases in one; every canvas is a new one."""
CURRICULUM = 0.4
"""Part of the steps in which digits go from upright and as large as the canvas to the full distortion."""
PEAK_RATE = 2e-3
"""Highest learning rate of the one-cycle schedule."""
EMA_DECAY = 0.99
"""The weights that are kept are an exponential moving average."""


def train(folder: Path, *, report: Callable[[str], None]) -> float:
    """Train, measure on held-out canvases, write the model.

    Args:
        folder: Where ``card.toml``, the weights and the parity pictures are written.
        report: Told of each step, in one line.

    Returns:
        Accuracy on the held-out canvases, a fraction of 1.
    """
    # One thread adds up in one order, so that the same machine gives the same bytes.
    torch.set_num_threads(1)
    network = fit(Ink.of(digits.training_split()), steps=STEPS, report=report)
    canvases = stn_canvases.held_out()
    found = measure(network, canvases)
    report(f"{found.accuracy:.2%} of {len(canvases.targets)} held-out canvases right")
    card = vgg_writing.card(
        canvas_training.write_files(folder, network),
        network,
        arguments=ARGUMENTS,
        normalisation=(MEAN, STD),
        training={"seed": SEED, "steps": STEPS, "num_canvases": f"{STEPS * BATCH:,}", "curriculum": CURRICULUM},
        accuracy=found.accuracy,
        confusion=found.confusion,
    )
    (folder / "card.toml").write_text(card, encoding="utf-8")
    return found.accuracy


def fit(ink: Ink, *, steps: int, report: Callable[[str], None], **arguments: Any) -> VggSmall:
    """Train a fresh network on canvases of some digits; gives it in eval mode.

    Args:
        ink: The digits to draw with.
        steps: Optimisation steps.
        report: Told of the loss now and then, in one line.
        arguments: Of the network, in place of those of ``ARGUMENTS``.
    """
    torch.manual_seed(SEED)
    network = VggSmall(**{**ARGUMENTS, **arguments}).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    plan = Plan(steps, BATCH, CURRICULUM, EMA_DECAY, SEED)
    return canvas_training.fit(network, ink, plan, loss_of=loss_of, optimizer=optimizer, rates=PEAK_RATE, report=report)


def loss_of(network: nn.Module, canvases: Canvases) -> torch.Tensor:
    """Cross-entropy of the class."""
    with torch.autocast("cpu", torch.bfloat16):
        logits_NK = network(normalised(canvases).contiguous(memory_format=torch.channels_last))
    return class_loss(logits_NK, canvases)


def normalised(canvases: Canvases) -> torch.Tensor:
    """Bring canvases to the network's input, float32 (N, 1, 64, 64)."""
    return (canvases.pixels - MEAN) / STD


@torch.inference_mode()
def measure(network: nn.Module, canvases: Canvases) -> Measured:
    """Count right and wrong answers, in single precision."""
    answers = [network(some).argmax(dim=1) for some in torch.split(normalised(canvases), BATCH)]
    return canvas_training.measured(answers, canvases)
