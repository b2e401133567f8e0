"""Trains ``unet-cells``: a small U-Net that separates touching cells, on synthetic microscopy.

Shape suffixes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from models.networks.unet import UNet
from models.recipes import cells, unet_cells_measure, unet_cells_writing

SEED = 2015
"""Seed of initialisation, order and augmentation."""
ARGUMENTS = {"num_classes": 3, "in_channels": 1, "width": 16, "depth": 4}
"""What the network is built with."""
TRAINING_SEEDS = range(500)
"""Scenes to train on."""
SCENE_PX, CROP_PX, BATCH = 288, 192, 6
"""Sides of a training scene and of what a step sees of it, and how many of them a step sees."""
STEPS = 1500
PEAK_RATE = 4e-3
"""Highest learning rate of the one-cycle schedule."""
PARITY_SEEDS = range(2_000_000, 2_000_004)
"""Scenes on which faster arithmetic is compared with fp32."""


def train(folder: Path, *, report: Callable[[str], None]) -> float:
    """Train, measure on held-out scenes, and write the model.

    Args:
        folder: Where ``card.toml``, the weights and the parity pictures are written.
        report: Told of each step, in one line.

    Returns:
        Mean IoU on the held-out scenes.
    """
    return write(folder, fit(report=report), report=report)


def write(folder: Path, network: UNet, *, report: Callable[[str], None]) -> float:
    """Measure a network as its file has it, and write the model; gives the mean IoU on the held-out scenes."""
    halves = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    network.load_state_dict(halves)
    figures = unet_cells_measure.measure(network.eval())
    report(
        f"held out: mean IoU {figures.mean_iou:.4f}, count error {figures.count_error:.2%} of {figures.num_cells} "
        f"cells, {figures.num_coins} of 24 coins and {figures.num_surplus} other objects"
    )
    (folder / "parity").mkdir(parents=True, exist_ok=True)
    weights = save(halves)
    (folder / "weights.safetensors").write_bytes(weights)
    for index, seed in enumerate(PARITY_SEEDS):
        Image.fromarray(cells.scene(seed, size_wh=(192, 160)).image).save(folder / "parity" / f"{index}.png")
    num_params = sum(parameter.numel() for parameter in network.parameters())
    gflops = multiply_adds(network, side_px=256) / 1e9
    card = unet_cells_writing.card(
        weights, figures, num_scenes=len(TRAINING_SEEDS), num_params=num_params, gflops=gflops
    )
    (folder / "card.toml").write_text(card, encoding="utf-8")
    return figures.mean_iou


def multiply_adds(network: nn.Module, *, side_px: int) -> int:
    """Count the multiply-adds for one square picture."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 1, side_px, side_px))
    return int(counter.get_total_flops()) // 2


def fit(*, steps: int = STEPS, seeds: range = TRAINING_SEEDS, report: Callable[[str], None]) -> UNet:
    """Train a fresh network; gives it in eval mode.

    Args:
        steps: Optimisation steps.
        seeds: Of the scenes to train on.
        report: Told of the loss now and then, in one line.
    """
    torch.manual_seed(SEED)
    network = UNet(**ARGUMENTS).to(memory_format=torch.channels_last)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.15)
    network.train()
    recent = 0.0
    for step, (inputs_NCHW, targets_NHW) in enumerate(_batches(steps, seeds), start=1):
        with torch.autocast("cpu", torch.bfloat16):
            logits_NKHW = network(inputs_NCHW)
        loss = loss_of(logits_NKHW.float(), targets_NHW)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        recent += float(loss.detach())
        if step % 50 == 0 or step == steps:
            report(f"step {step} of {steps}: loss {recent / ((step - 1) % 50 + 1):.4f}")
            recent = 0.0
    return network.eval()


def loss_of(logits_NKHW: Tensor, targets_NHW: Tensor) -> Tensor:
    """Cross-entropy plus one minus the soft Dice coefficient, averaged over the classes."""
    probabilities = logits_NKHW.softmax(dim=1)
    wanted = nn.functional.one_hot(targets_NHW, logits_NKHW.shape[1]).permute(0, 3, 1, 2).to(probabilities.dtype)
    common, total = (probabilities * wanted).sum(dim=(0, 2, 3)), (probabilities + wanted).sum(dim=(0, 2, 3))
    dice = (2 * common + 1) / (total + 1)
    return nn.functional.cross_entropy(logits_NKHW, targets_NHW) + 1 - dice.mean()


def _batches(steps: int, seeds: range) -> Iterator[tuple[Tensor, Tensor]]:
    """Crop, flip, turn, invert and fade scenes; gives inputs (N, 1, H, W) and classes (N, H, W)."""
    random = np.random.default_rng(SEED)
    scenes = [cells.scene(seed, size_wh=(SCENE_PX, SCENE_PX)) for seed in seeds]
    pairs = [np.stack([scene.image, scene.classes]) for scene in scenes]
    order: list[int] = []
    for _ in range(steps):
        while len(order) < BATCH:
            order += random.permutation(len(pairs)).tolist()
        chosen, order = order[:BATCH], order[BATCH:]
        crops = np.stack([_crop(random, pairs[index]) for index in chosen])
        levels = torch.from_numpy(crops[:, :1].astype(np.float32)) / 255
        gain = torch.from_numpy(random.uniform(0.6, 1.0, size=(BATCH, 1, 1, 1)).astype(np.float32))
        lift = torch.from_numpy(random.uniform(0, 1, size=(BATCH, 1, 1, 1)).astype(np.float32)) * (1 - gain)
        negative = torch.from_numpy(random.random((BATCH, 1, 1, 1)) < 0.5)
        levels = torch.where(negative, 1 - levels, levels) * gain + lift
        inputs_NCHW = ((levels - cells.PREPROCESSING.mean[0]) / cells.PREPROCESSING.std[0]).contiguous(
            memory_format=torch.channels_last
        )
        yield inputs_NCHW, torch.from_numpy(crops[:, 1].astype(np.int64))


def _crop(random: np.random.Generator, pair: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Any:
    top, left = random.integers(0, SCENE_PX - CROP_PX + 1, size=2)
    crop = np.rot90(pair[:, top : top + CROP_PX, left : left + CROP_PX], int(random.integers(4)), axes=(1, 2))
    return crop[:, :, ::-1] if random.random() < 0.5 else crop
