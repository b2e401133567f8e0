"""Trains torchvision's ResNet-18 on cluttered digits, and writes it as a user's model: too large to be bundled.

Shape suffixes: N canvases, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from models.cards import Card, Cost, Preprocessing, Provenance, Quality, Serving, Weights
from models.recipes import digits, stn_canvases
from models.recipes.stn_canvases import Canvases, Ink
from models.retrain import toml

WEIGHTS_FILE = "weights.safetensors"
NAME = "resnet18-digits"
"""What the model is called."""
SEED = 2016
"""Seed of initialisation and canvases."""
MEAN, STD = 0.15, 0.25
"""Of the canvases' levels, about."""
INPUT_PX = 128
"""Canvases are enlarged to this, so that the last feature map has 4x4 cells; 64 px would leave 2x2."""
PEAK_RATE = 2e-3
"""Highest learning rate of the one-cycle schedule."""


class Stage(NamedTuple):
    """A part of the training."""

    side_px: int
    steps: int
    batch: int


STAGES = (Stage(64, 360, 128), Stage(INPUT_PX, 120, 64))
"""Most of the training happens on small pictures, where a step costs a third."""
CURRICULUM = 0.35
"""Part of the steps in which digits go from upright and as large as the canvas to the full distortion."""


def train(folder: Path, *, report: Callable[[str], None], stages: tuple[Stage, ...] = STAGES) -> float:
    """Train, measure on held-out canvases, write the model's folder.

    Args:
        folder: Where ``card.toml`` and the weights are written.
        report: Told of progress, in one line.
        stages: How long, and how large the pictures are.

    Returns:
        Accuracy on the held-out canvases, a fraction of 1.
    """
    network = fit(Ink.of(digits.training_split()), stages=stages, report=report)
    canvases = stn_canvases.held_out()
    accuracy = measure(network, canvases)
    report(f"{accuracy:.2%} of {len(canvases.targets)} held-out canvases right")
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    (folder / WEIGHTS_FILE).write_bytes(weights)
    card = _card(folder.name, weights, network, accuracy=accuracy, stages=stages)
    (folder / "card.toml").write_text(toml.dumps(card.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    return accuracy


def fit(ink: Ink, *, stages: tuple[Stage, ...], report: Callable[[str], None]) -> nn.Module:
    """Train a fresh network on canvases of some digits, never the same twice; gives it in eval mode.

    Args:
        ink: The digits to draw with.
        stages: How long, and how large the pictures are.
        report: Told of the loss now and then, in one line.
    """
    from torchvision.models import resnet18

    torch.manual_seed(SEED)
    random = torch.Generator().manual_seed(SEED)
    network: nn.Module = resnet18(num_classes=10).to(memory_format=torch.channels_last).train()
    total = sum(stage.steps for stage in stages)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=total, pct_start=0.2)
    sizes = [stage for stage in stages for _ in range(stage.steps)]
    recent: list[float] = []
    for step, stage in enumerate(sizes, start=1):
        canvases = stn_canvases.draw(ink, stage.batch, random, distortion=min(1.0, step / (CURRICULUM * total)))
        with torch.autocast("cpu", torch.bfloat16):
            logits_NK = network(to_input(canvases, stage.side_px))
        loss = functional.cross_entropy(logits_NK.float(), canvases.targets, label_smoothing=0.05)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if step % 20 == 0 or step == total:
            report(f"step {step} of {total}, {stage.side_px} px: loss {sum(recent) / len(recent):.4f}")
            recent.clear()
    return network.eval()


def to_input(canvases: Canvases, side_px: int = INPUT_PX) -> Tensor:
    """Enlarge and normalise canvases: float32 (N, 3, ``side_px``, ``side_px``)."""
    pixels_N1HW = functional.interpolate(canvases.pixels, size=side_px, mode="bilinear", align_corners=False)
    grey_NCHW = ((pixels_N1HW - MEAN) / STD).expand(-1, 3, -1, -1)
    return grey_NCHW.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def measure(network: nn.Module, canvases: Canvases, *, batch: int = 100) -> float:
    """Give the part of canvases told right, in single precision."""
    right = 0
    for start in range(0, len(canvases.targets), batch):
        some = Canvases(*(field[start : start + batch] for field in canvases))
        right += int((network(to_input(some)).argmax(dim=1) == some.targets).sum())
    return right / len(canvases.targets)


def _card(name: str, weights: bytes, network: nn.Module, *, accuracy: float, stages: tuple[Stage, ...]) -> Card:
    command = "python -m models.recipes.sanity"
    drawn = sum(stage.steps * stage.batch for stage in stages)
    told = ", then ".join(f"{stage.steps} of {stage.batch} at {stage.side_px} px" for stage in stages)
    split = f"{stn_canvases.NUM_HELD_OUT} canvases of the {len(digits.test_split())} held-out digits"
    shape: dict[str, Any] = {"resize": (INPUT_PX, INPUT_PX), "mean": [MEAN] * 3, "std": [STD] * 3}
    return Card(
        name=name,
        tasks=["classification", "embedding"],
        description="ResNet-18 that reads one handwritten digit anywhere in clutter, bright on black",
        network="torchvision:resnet18",
        arguments={"num_classes": 10},
        labels=[str(digit) for digit in range(10)],
        weights=Weights(file=WEIGHTS_FILE, sha256=hashlib.sha256(weights).hexdigest()),
        preprocess=Preprocessing(mode="RGB", interpolation="bilinear", **shape),
        serving=Serving(max_batch=32),
        cost=Cost(num_params=sum(parameter.numel() for parameter in network.parameters()), min_size_hw=(64, 64)),
        licence="Apache-2.0",
        provenance=Provenance(
            origin="He et al. 2015 (ResNet-18), torchvision's; trained from scratch by this project's recipe",
            data="scikit-learn load_digits (E. Alpaydin, C. Kaynak), CC BY 4.0, drawn onto cluttered canvases",
            command=command,
            notes=f"{drawn:,} canvases of the {len(digits.training_split())} training digits, seed {SEED}: {told}.",
        ),
        quality=[Quality(metric="accuracy", value=accuracy, split=split, command=command)],
    )
