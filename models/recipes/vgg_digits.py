"""Trains ``vgg-digits``: a plain convolutional network that reads a digit anywhere in clutter.

Its canvases are those of ``stn-digits``, which say where the digit is: what explains this network can be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.networks.vgg_small import VggSmall
from models.recipes import digits, stn_canvases, vgg_writing
from models.recipes.stn_canvases import Canvases, Ink
from models.recipes.stn_digits import Measured, parity_canvases

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
    measured = measure(network, canvases)
    report(f"{measured.accuracy:.2%} of {len(canvases.targets)} held-out canvases right")
    (folder / "parity").mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    (folder / "weights.safetensors").write_bytes(weights)
    for digit, levels in enumerate(parity_canvases().levels()):
        Image.fromarray(levels).save(folder / "parity" / f"{digit}.png")
    card = vgg_writing.card(
        weights,
        network,
        arguments=ARGUMENTS,
        normalisation=(MEAN, STD),
        training={"seed": SEED, "steps": STEPS, "num_canvases": f"{STEPS * BATCH:,}", "curriculum": CURRICULUM},
        accuracy=measured.accuracy,
        confusion=measured.confusion,
    )
    (folder / "card.toml").write_text(card, encoding="utf-8")
    return measured.accuracy


def fit(ink: Ink, *, steps: int, report: Callable[[str], None], **arguments: Any) -> VggSmall:
    """Train a fresh network on canvases of some digits; gives it in eval mode.

    Args:
        ink: The digits to draw with.
        steps: Optimisation steps.
        report: Told of the loss now and then, in one line.
        arguments: Of the network, in place of those of ``ARGUMENTS``.
    """
    torch.manual_seed(SEED)
    random = torch.Generator().manual_seed(SEED)
    network = VggSmall(**{**ARGUMENTS, **arguments}).to(memory_format=torch.channels_last).train()
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.2)
    recent = 0.0
    for step in range(1, steps + 1):
        canvases = stn_canvases.draw(ink, BATCH, random, distortion=min(1.0, step / (CURRICULUM * steps)))
        with torch.autocast("cpu", torch.bfloat16):
            logits_NK = network(normalised(canvases).contiguous(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(logits_NK.float(), canvases.targets, label_smoothing=0.05)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        recent += float(loss.detach())
        if step % 100 == 0 or step == steps:
            report(f"step {step} of {steps}: loss {recent / ((step - 1) % 100 + 1):.4f}")
            recent = 0.0
    kept = averaged.module
    assert isinstance(kept, VggSmall)
    return kept.eval()


def normalised(canvases: Canvases) -> torch.Tensor:
    """Bring canvases to the network's input, float32 (N, 1, 64, 64)."""
    return (canvases.pixels - MEAN) / STD


@torch.inference_mode()
def measure(network: nn.Module, canvases: Canvases) -> Measured:
    """Count right and wrong answers, in single precision."""
    answers = torch.cat([network(some).argmax(dim=1) for some in torch.split(normalised(canvases), BATCH)])
    confusion = np.zeros((10, 10), dtype=np.int64)
    np.add.at(confusion, (canvases.targets.numpy(), answers.numpy()), 1)
    return Measured(float((answers == canvases.targets).float().mean()), confusion)
