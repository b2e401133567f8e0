"""Trains ``stn-digits``: a spatial transformer network that reads a digit anywhere in clutter.

To compare, the same classifier is trained without the transformer, too.

Shape suffixes: N images, C channels, H height, W width, K classes; 23 an affine matrix (2, 3).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.networks.stn import SpatialTransformerNetwork
from models.recipes import digits, stn_canvases, stn_writing
from models.recipes.lenet_digits import drawn_digit
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


class Measured(NamedTuple):
    """What the held-out canvases showed."""

    accuracy: float
    """Part of the canvases told right."""
    confusion: NDArray[np.int64]
    """Shape (10, 10): true digit by row, answer by column."""


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
    (folder / "parity").mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in networks["with"].state_dict().items()})
    (folder / "weights.safetensors").write_bytes(weights)
    for digit, levels in enumerate(parity_canvases().levels()):
        Image.fromarray(levels).save(folder / "parity" / f"{digit}.png")
    card = stn_writing.card(
        weights,
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
    random = torch.Generator().manual_seed(SEED)
    network = SpatialTransformerNetwork(**{**ARGUMENTS, **arguments}).to(memory_format=torch.channels_last)
    moving_average = get_ema_multi_avg_fn(EMA_DECAY)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=moving_average, use_buffers=True)
    optimizer, schedule = _optimizer(network, steps)
    network.train()
    recent = 0.0
    for step in range(1, steps + 1):
        canvases = stn_canvases.draw(ink, BATCH, random, distortion=min(1.0, step / (CURRICULUM * steps)))
        loss = loss_of(network, canvases)
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
    assert isinstance(kept, SpatialTransformerNetwork)
    return kept.eval()


def loss_of(network: nn.Module, canvases: Canvases) -> Tensor:
    """Cross-entropy of the class alone: nothing is said of where the digit is."""
    with torch.autocast("cpu", torch.bfloat16):
        logits_NK, _, _ = network(canvases.pixels.contiguous(memory_format=torch.channels_last))
    return nn.functional.cross_entropy(logits_NK.float(), canvases.targets, label_smoothing=0.05)


@torch.inference_mode()
def measure(network: nn.Module, canvases: Canvases) -> Measured:
    """Count right and wrong answers, in single precision."""
    answers = torch.cat([network(some)[0].argmax(dim=1) for some in torch.split(canvases.pixels, BATCH)])
    confusion = np.zeros((10, 10), dtype=np.int64)
    np.add.at(confusion, (canvases.targets.numpy(), answers.numpy()), 1)
    return Measured(float((answers == canvases.targets).float().mean()), confusion)


def parity_canvases() -> Canvases:
    """Draw one canvas of each digit of Pillow's own font."""
    printed = np.stack([np.asarray(drawn_digit(digit)) for digit in range(10)])
    ink = Ink(printed, np.arange(10))
    return stn_canvases.draw(ink, 10, torch.Generator().manual_seed(SEED), chosen=range(10))


def _optimizer(
    network: SpatialTransformerNetwork, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    groups = [(network.classifier, PEAK_RATE), (network.localisations, PEAK_RATE * LOCALISATION_RATE)]
    filled = [(list(part.parameters()), rate) for part, rate in groups if any(True for _ in part.parameters())]
    optimizer = torch.optim.AdamW([{"params": parameters} for parameters, _ in filled], weight_decay=1e-2)
    rates = [rate for _, rate in filled]
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.2)
