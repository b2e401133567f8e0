"""Trains a small encoder to know textures, from every block's statistics.

Shape suffixes: N images, C channels, H height, W width, K classes, D features.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.networks.style_encoder import StyleEncoder
from models.recipes import style_patches

MEAN, STD = 0.5, 0.25
"""Of every channel, as the card says."""
BATCH_SIZE = 40
"""Patches in a step."""
PEAK_RATE = 4e-3
"""Largest learning rate of AdamW, after a tenth of the steps."""
DAMAGE_SHARE = 0.5
"""Weight of the question what was done to a patch."""
CLEAN_PATCHES = 256
"""Patches over which filters are scaled."""
SEED = 17
"""Seed of weights and patches."""


class _Asked(nn.Module):
    """The encoder with batch normalisation, and two linear questions to each block's mean and spread."""

    def __init__(self, encoder: StyleEncoder, num_classes: int, num_damages: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        widths: dict[str, int] = {}
        for name, layer in encoder.features.named_children():
            self.layers[name] = layer
            if isinstance(layer, nn.Conv2d):
                self.layers[f"{name}_norm"] = nn.BatchNorm2d(layer.out_channels)
                widths[f"block{name[4]}"] = layer.out_channels
        self.classes = nn.ModuleDict({block: nn.Linear(2 * width, num_classes) for block, width in widths.items()})
        self.damages = nn.ModuleDict({block: nn.Linear(2 * width, num_damages) for block, width in widths.items()})

    def forward(self, x_NCHW: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Give the logits of both questions for each block."""
        answers = []
        names = list(self.layers)
        for index, (name, layer) in enumerate(self.layers.items()):
            x_NCHW = layer(x_NCHW)
            if index + 1 == len(names) or names[index + 1].startswith("pool"):
                block = f"block{name[4]}"
                maps = x_NCHW.float()
                statistics_ND = torch.cat([maps.mean((2, 3)), (maps.var((2, 3)) + 1e-4).sqrt()], dim=1)
                answers.append((self.classes[block](statistics_ND), self.damages[block](statistics_ND)))
        return answers


def train(*, num_steps: int, report: Callable[[str], None]) -> StyleEncoder:
    """Train from scratch.

    Args:
        num_steps: Of ``BATCH_SIZE`` patches each.
        report: Told how it goes.

    Returns:
        The encoder, each filter of unit mean activation (Gatys et al., 2015), in eval mode.
    """
    torch.manual_seed(SEED)
    encoder = StyleEncoder()
    for module in encoder.features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    asked = _Asked(encoder, style_patches.num_classes(), len(style_patches.DAMAGES))
    asked = asked.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(asked.parameters(), lr=PEAK_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=num_steps, pct_start=0.1)
    seeds = np.random.SeedSequence(SEED).spawn(num_steps)
    started, right = time.monotonic(), 0.0
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(_batch, seeds[0])
        for step in range(num_steps):
            inputs, targets, damages = coming.result()
            coming = pool.submit(_batch, seeds[min(step + 1, num_steps - 1)])
            with torch.autocast("cpu", torch.bfloat16):
                answers = asked(inputs)
            loss = torch.stack([_loss(classes, damaged, targets, damages) for classes, damaged in answers]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            right = 0.98 * right + 0.02 * float((answers[-1][0].argmax(1) == targets).float().mean())
            if step % 100 == 99:
                known = right / (1 - 0.98 ** (step + 1))
                report(
                    f"step {step + 1}: loss {loss.item():.3f}, {known:.1%} known, {time.monotonic() - started:.0f} s"
                )
    return normalise(_fold(encoder, asked.eval()))


def to_input(patches: np.ndarray) -> Tensor:
    """Normalise patches, uint8 (N, H, W, 3); gives float32 (N, 3, H, W), channels last."""
    return (torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def normalise(encoder: StyleEncoder, num_patches: int | None = None) -> StyleEncoder:
    """Scale filters to a mean activation of one over clean patches; later layers undo it, so nothing else changes."""
    x_NCHW = to_input(style_patches.batch(num_patches or CLEAN_PATCHES, np.random.default_rng(SEED))[0])
    before = torch.ones(3)
    with torch.no_grad():
        for layer in encoder.features:
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(before[None, :, None, None])
                means = functional.relu(layer(x_NCHW)).mean((0, 2, 3))
                before = means.clamp(min=0.02 * float(means.mean()))
                layer.weight.div_(before[:, None, None, None])
                assert layer.bias is not None
                layer.bias.div_(before)
            x_NCHW = layer(x_NCHW)
    return encoder


def _batch(seed: np.random.SeedSequence) -> tuple[Tensor, Tensor, Tensor]:
    patches, targets, damages = style_patches.batch(BATCH_SIZE, np.random.default_rng(seed))
    return to_input(patches), torch.from_numpy(targets), torch.from_numpy(damages)


def _loss(classes_NK: Tensor, damages_NK: Tensor, targets_N: Tensor, damage_N: Tensor) -> Tensor:
    known = functional.cross_entropy(classes_NK, targets_N) / math.log(classes_NK.shape[1])
    seen = functional.cross_entropy(damages_NK, damage_N) / math.log(damages_NK.shape[1])
    return known + DAMAGE_SHARE * seen


def _fold(encoder: StyleEncoder, asked: _Asked) -> StyleEncoder:
    """Put the batch normalisation into the convolutions."""
    folded = copy.deepcopy(encoder)
    for name, layer in encoder.features.named_children():
        if isinstance(layer, nn.Conv2d):
            norm = asked.layers[f"{name}_norm"]
            assert isinstance(norm, nn.BatchNorm2d)
            setattr(folded.features, name, fuse_conv_bn_eval(layer.eval(), norm))
    return folded.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
