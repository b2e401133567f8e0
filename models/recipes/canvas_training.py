"""What the recipes that read digits on canvases share: the way they train, count and write their files.

Shape suffixes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.recipes import stn_canvases
from models.recipes.lenet_digits import drawn_digit
from models.recipes.stn_canvases import Canvases, Ink

PARITY_SEED = 2015
"""Seed of the canvases that come with the models."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class Measured(NamedTuple):
    """What the held-out canvases showed."""

    accuracy: float
    """Part of the canvases told right."""
    confusion: NDArray[np.int64]
    """Shape (10, 10): true digit by row, answer by column."""


class Plan(NamedTuple):
    """How long to train, and on what."""

    steps: int
    """Optimisation steps."""
    batch: int
    """Canvases in one; every canvas is a new one."""
    curriculum: float
    """Part of the steps in which digits go from upright and as large as the canvas to the full distortion."""
    ema_decay: float
    """The weights that are kept are an exponential moving average."""
    seed: int
    """Seed of the canvases."""


def fit(
    network: NetworkT,
    ink: Ink,
    plan: Plan,
    *,
    loss_of: Callable[[NetworkT, Canvases], Tensor],
    optimizer: torch.optim.Optimizer,
    rates: float | list[float],
    report: Callable[[str], None],
) -> NetworkT:
    """Train a network on canvases of some digits; gives its average in eval mode.

    Args:
        network: As it was initialised.
        ink: The digits to draw with.
        plan: How long, and on what.
        loss_of: What is to become small.
        optimizer: Of the network's parameters.
        rates: Highest learning rate of the one-cycle schedule, or one for each group of parameters.
        report: Told of the loss now and then, in one line.
    """
    random = torch.Generator().manual_seed(plan.seed)
    moving_average = get_ema_multi_avg_fn(plan.ema_decay)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=moving_average, use_buffers=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=plan.steps, pct_start=0.2)
    network.train()
    recent = 0.0
    for step in range(1, plan.steps + 1):
        distortion = min(1.0, step / (plan.curriculum * plan.steps))
        loss = loss_of(network, stn_canvases.draw(ink, plan.batch, random, distortion=distortion))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        recent += float(loss.detach())
        if step % 100 == 0 or step == plan.steps:
            report(f"step {step} of {plan.steps}: loss {recent / ((step - 1) % 100 + 1):.4f}")
            recent = 0.0
    kept = averaged.module
    assert isinstance(kept, type(network))
    return kept.eval()


def class_loss(logits_NK: Tensor, canvases: Canvases) -> Tensor:
    """Cross-entropy of the class alone: nothing is said of where the digit is."""
    return nn.functional.cross_entropy(logits_NK.float(), canvases.targets, label_smoothing=0.05)


def measured(answers: Sequence[Tensor], canvases: Canvases) -> Measured:
    """Count right and wrong answers, classes int64 (N,) in parts."""
    answers_N = torch.cat(list(answers))
    confusion = np.zeros((10, 10), dtype=np.int64)
    np.add.at(confusion, (canvases.targets.numpy(), answers_N.numpy()), 1)
    return Measured(float((answers_N == canvases.targets).float().mean()), confusion)


def parity_canvases() -> Canvases:
    """Draw one canvas of each digit of Pillow's own font."""
    printed = np.stack([np.asarray(drawn_digit(digit)) for digit in range(10)])
    ink = Ink(printed, np.arange(10))
    return stn_canvases.draw(ink, 10, torch.Generator().manual_seed(PARITY_SEED), chosen=range(10))


def write_files(folder: Path, network: nn.Module) -> bytes:
    """Write the weights, which are given back, and the parity pictures of a model."""
    (folder / "parity").mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    (folder / "weights.safetensors").write_bytes(weights)
    for digit, levels in enumerate(parity_canvases().levels()):
        Image.fromarray(levels).save(folder / "parity" / f"{digit}.png")
    return weights
