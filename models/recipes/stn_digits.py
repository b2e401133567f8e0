"""Trains ``stn-digits``: a spatial transformer network that reads a digit anywhere in clutter.

To compare, the same classifier is trained without the transformer, too.

Shape suffixes: N images, C channels, H height, W width, K classes; 23 an affine matrix (2, 3).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.stn import SpatialTransformerNetwork
from models.recipes import canvas_training, digits, stn_canvases, stn_writing
from models.recipes.canvas_training import Measured, Plan, class_loss
from models.recipes.stn_canvases import Canvases, Ink

SEED = 2015
"""Seed of initialisation, canvases and order."""
ARGUMENTS: dict[str, Any] = {"num_classes": 10, "in_channels": 1, "rectified_px": 32, "num_transformers": 2}
"""What the network is built with."""
STEPS, BATCH = 2200, 128
"""Optimisation steps, and canvases in one; every canvas is a new one."""
CURRICULUM = 0.6
"""Part of the steps in which digits go from upright and as large as the canvas to the full distortion."""
PEAK_RATE = 3e-3
"""Highest learning rate of the one-cycle schedule."""
LOCALISATION_RATE = 0.33
"""Rate of the localisation networks, as part of the classifier's."""
EMA_DECAY = 0.99
"""The weights that are kept are an exponential moving average."""


def train(folder: Path, *, report: Callable[[str], None]) -> float:
    """Train with and without the transformer, measure both on held-out canvases, write the model.

    Args:
        folder: Where ``card.toml``, the weights and the parity pictures are written.
        report: Told of each step, in one line.

    Returns:
        Accuracy on the held-out canvases, a fraction of 1.
    """
    # One thread adds up in one order, so that the same machine gives the same bytes.
    torch.set_num_threads(1)
    ink = Ink.of(digits.training_split())
    networks = {
        "with": fit(ink, steps=STEPS, report=report),
        "without": fit(ink, steps=STEPS, report=report, num_transformers=0),
    }
    canvases = stn_canvases.held_out()
    found = {name: measure(network, canvases) for name, network in networks.items()}
    for name, measured in found.items():
        report(f"{name} the transformer: {measured.accuracy:.2%} of {len(canvases.targets)} held-out canvases right")
    ratio = (1 - found["with"].accuracy) / max(1 - found["without"].accuracy, 1e-9)
    report(f"the transformer leaves {ratio:.0%} of the error")
    card = stn_writing.card(
        canvas_training.write_files(folder, networks["with"]),
        networks["with"],
        arguments=ARGUMENTS,
        training={"seed": SEED, "steps": STEPS, "num_canvases": f"{STEPS * BATCH:,}", "curriculum": CURRICULUM},
        accuracies=(found["with"].accuracy, found["without"].accuracy),
        confusion=found["with"].confusion,
        num_plain_params=sum(parameter.numel() for parameter in networks["without"].parameters()),
    )
    (folder / "card.toml").write_text(card, encoding="utf-8")
    return found["with"].accuracy


def fit(ink: Ink, *, steps: int, report: Callable[[str], None], **arguments: Any) -> SpatialTransformerNetwork:
    """Train a fresh network on canvases of some digits; gives it in eval mode.

    Args:
        ink: The digits to draw with.
        steps: Optimisation steps.
        report: Told of the loss now and then, in one line.
        arguments: Of the network, in place of those of ``ARGUMENTS``.
    """
    torch.manual_seed(SEED)
    network = SpatialTransformerNetwork(**{**ARGUMENTS, **arguments}).to(memory_format=torch.channels_last)
    optimizer, rates = _optimizer(network)
    plan = Plan(steps, BATCH, CURRICULUM, EMA_DECAY, SEED)
    return canvas_training.fit(network, ink, plan, loss_of=loss_of, optimizer=optimizer, rates=rates, report=report)


def loss_of(network: nn.Module, canvases: Canvases) -> Tensor:
    """Cross-entropy of the class alone: nothing is said of where the digit is."""
    with torch.autocast("cpu", torch.bfloat16):
        logits_NK, _, _ = network(canvases.pixels.contiguous(memory_format=torch.channels_last))
    return class_loss(logits_NK, canvases)


@torch.inference_mode()
def measure(network: nn.Module, canvases: Canvases) -> Measured:
    """Count right and wrong answers, in single precision."""
    answers = [network(some)[0].argmax(dim=1) for some in torch.split(canvases.pixels, BATCH)]
    return canvas_training.measured(answers, canvases)


def _optimizer(network: SpatialTransformerNetwork) -> tuple[torch.optim.Optimizer, list[float]]:
    groups = [(network.classifier, PEAK_RATE), (network.localisations, PEAK_RATE * LOCALISATION_RATE)]
    filled = [(list(part.parameters()), rate) for part, rate in groups if any(True for _ in part.parameters())]
    optimizer = torch.optim.AdamW([{"params": parameters} for parameters, _ in filled], weight_decay=1e-2)
    return optimizer, [rate for _, rate in filled]
