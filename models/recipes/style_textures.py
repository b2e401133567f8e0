"""Trains ``style-textures``: a small encoder of textures for style transfer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from models.card_tables import StyleTransferDefaults
from models.cards import Preprocessing
from models.networks.style_encoder import StyleEncoder
from models.recipes import style_pairs, style_patches, style_pictures, style_training

STEPS = 1000
"""Training steps."""
PREPROCESSING = Preprocessing(mean=[style_training.MEAN] * 3, std=[style_training.STD] * 3)
"""As in training."""
LAYERS = StyleTransferDefaults(
    content_layers={"relu3_2": 1.0, "relu4_2": 1.0},
    style_layers={"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0},
)
"""Compared unless a request says otherwise."""

_CARD = """\
name = "style-textures"
tasks = ["style_transfer"]
description = "A small VGG-like encoder of textures, for style transfer without a download"
network = "style_encoder"
licence = "Apache-2.0"

[weights]
file = "weights.safetensors"
sha256 = "{sha256}"

[preprocess]
mean = {mean}
std = {std}

[style_transfer]
content_layers = {{ {content_layers} }}
style_layers = {{ {style_layers} }}

[serving]
max_batch = 1

[cost]
num_params = {num_params}
gflops = {gflops:.3f}
min_size_hw = [16, 16]

[provenance]
origin = "trained from scratch by this project's recipe; used as in Gatys, Ecker, Bethge 2015"
data = \"\"\"
{num_classes} classes of 96x96 patches: quarters of {num_photographs} photographs that ship with scikit-image (their \\
licences: skimage/data/README.txt) and {num_styles} kinds of drawn pictures\"\"\"
command = "python -m models.recipes style-textures"
notes = \"\"\"
{steps} steps of {batch} patches, seed {seed}. From the mean and spread of every block it learns which picture a \\
patch is from, and what was done to it (speckle, colour speckle, a chequered pattern, blur, JPEG blocks), so that \\
Gram matrices feel such faults. Batch normalisation is folded, filters are scaled to unit mean activation. \\
The contents of the five pairs are among the photographs it was trained on; their styles are drawn from another seed.
{pairs}\"\"\"
"""
_QUALITY = """
[[quality]]
metric = "fall of the total loss, {content} + {style}"
value = {fall:.4f}
split = "{size_px} px, {steps} evaluations from the content, usual weights"
command = "python -m models.recipes.style_pairs"
"""


def train(folder: Path, *, report: Callable[[str], None]) -> float:
    """Train, paint the five pairs, and write the model.

    Args:
        folder: Where ``card.toml`` and the weights are written.
        report: Told how it goes, a line at a time.

    Returns:
        The smallest fall of the total loss among the pairs, a fraction of 1.
    """
    return write(folder, style_training.train(num_steps=STEPS, report=report), report=report)


def write(folder: Path, encoder: StyleEncoder, *, report: Callable[[str], None]) -> float:
    """Paint the five pairs with the network as its file has it, and write the model; gives the smallest fall."""
    halves = {name: tensor.half().contiguous() for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict(halves)
    painted = []
    for pair in style_pairs.paint_all(encoder, PREPROCESSING, LAYERS):
        painted.append(pair)
        report(f"{pair.content} + {pair.style}: {pair.first:.2f} to {pair.last:.2f}, falls by {pair.fall:.1%}")
    folder.mkdir(parents=True, exist_ok=True)
    weights = save(halves)
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "card.toml").write_text(_card(weights, encoder, painted), encoding="utf-8")
    return min(pair.fall for pair in painted)


def _card(weights: bytes, encoder: StyleEncoder, painted: list[style_pairs.Painted]) -> str:
    card = _CARD.format(
        sha256=hashlib.sha256(weights).hexdigest(),
        mean=PREPROCESSING.mean,
        std=PREPROCESSING.std,
        content_layers=_inline(LAYERS.content_layers),
        style_layers=_inline(LAYERS.style_layers),
        num_params=sum(parameter.numel() for parameter in encoder.parameters()),
        gflops=_multiply_adds(encoder) / 1e9,
        num_classes=style_patches.num_classes(),
        num_photographs=len(style_patches.PHOTOGRAPHS),
        num_styles=len(style_pictures.STYLES),
        steps=STEPS,
        batch=style_training.BATCH_SIZE,
        seed=style_training.SEED,
        pairs="\n".join(f"{pair.content} + {pair.style}: {pair.first:.2f} to {pair.last:.2f}" for pair in painted),
    )
    return card + "".join(
        _QUALITY.format(
            content=pair.content,
            style=pair.style,
            fall=pair.fall,
            size_px=style_pairs.SIZE_PX,
            steps=style_pairs.STEPS,
        )
        for pair in painted
    )


def _inline(table: dict[str, float]) -> str:
    return ", ".join(f"{name} = {weight}" for name, weight in table.items())


def _multiply_adds(encoder: StyleEncoder) -> int:
    """Count the multiply-adds of a forward pass at 256 x 256."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, 3, 256, 256))
    return int(counter.get_total_flops()) // 2
