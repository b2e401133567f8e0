"""Writes the digit detectors' folders: weights in half precision, parity pictures, a card with what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.catalog import Catalog
from models.recipes import digits, pages
from models.recipes.coco import AveragePrecision
from models.recipes.detection import Plan, to_input
from models.recipes.measuring import described, measure

_CARD = """\
name = "{name}"
tasks = ["detection"]
description = "{description}"
network = "{network}"
labels = {labels}
parity = {parity}
licence = "{licence}"

[arguments]
{arguments}

[weights]
file = "weights.safetensors"
sha256 = "{sha256}"
{detection}
[serving]
max_batch = 32

[cost]
num_params = {num_params}
gflops = {gflops:.3f}

[provenance]
origin = "{origin}"
data = \"\"\"
{num_pages} pages drawn by models.recipes.pages: scikit-learn's handwritten digits (UCI, E. Alpaydin, C. Kaynak, \\
CC BY 4.0), enlarged from 8x8 px, on photographs that scikit-image ships and on synthetic patterns\"\"\"
command = "python -m models.recipes {name}"
notes = \"\"\"
{licence_reason}Trained on the {num_training} training digits and training backgrounds ({looks} looks at a page). \\
Measured on {num_measured} pages with {num_objects} digits: the {num_test} held-out digits \\
(models.recipes.digits.test_split), photographs and kinds of pattern that no training page has, another seed. \\
Nothing was chosen on them. mAP50-95 of each class:
{per_class}\"\"\"

[[quality]]
metric = "mAP50"
value = {map50:.6f}
split = "{num_measured} held-out pages (models.recipes.pages.held_out_pages), by pycocotools"
command = "python -m models.recipes.measuring {name}"

[[quality]]
metric = "mAP50-95"
value = {map50_95:.6f}
split = "{num_measured} held-out pages (models.recipes.pages.held_out_pages), by pycocotools"
command = "python -m models.recipes.measuring {name}"
"""


@dataclass(frozen=True)
class Facts:
    """What a detector's card says whatever its training brings."""

    name: str
    """The model's name."""
    description: str
    """One line."""
    network: str
    """As cards name it."""
    arguments: dict[str, Any]
    """Of its builder."""
    labels: tuple[str, ...]
    """By class index."""
    licence: str
    """An SPDX identifier."""
    origin: str
    """Who invented it."""
    licence_reason: str = ""
    """Why the licence is not the project's."""
    input_size_px: int | None = None
    """Where the network does not resize by itself."""
    iou_threshold: float | None = None
    """Of non-maximum suppression; absent: the network's own."""


def publish(
    folder: Path, network: nn.Module, facts: Facts, plan: Plan, *, report: Callable[[str], None]
) -> AveragePrecision:
    """Write a trained detector's folder, and measure what was written.

    Args:
        folder: Named as the model.
        network: Trained.
        facts: What its card says.
        plan: How it was trained.
        report: Told of what was measured.
    """
    weights = in_half_precision(network)
    (folder / "parity").mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    for number, page in enumerate(pages.parity()):
        Image.fromarray(page.pixels).save(folder / "parity" / f"{number}.png", optimize=True)
    costs = cost(network, takes_batches=facts.network.startswith("ultralytics:"))
    # A card without figures first: what is measured is what the files give.
    nothing = AveragePrecision(0, 0, {}, 0, 0)
    (folder / "card.toml").write_text(_card(facts, weights, plan, nothing, costs), encoding="utf-8")
    entry = Catalog(folder.parent).find(facts.name)
    report(f"validation pages: {described(measure(entry, pages.validation_pages()))}")
    measured = measure(entry, pages.held_out_pages())
    report(f"held-out pages: {described(measured)}")
    (folder / "card.toml").write_text(_card(facts, weights, plan, measured, costs), encoding="utf-8")
    return measured


def in_half_precision(network: nn.Module) -> bytes:
    """Give the weights as a safetensors file with float16 in place of float32."""
    return save(
        {
            name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
            for name, tensor in network.state_dict().items()
        }
    )


def cost(network: nn.Module, *, takes_batches: bool) -> tuple[int, float]:
    """Count a network's parameters, and its multiply-adds for one page in units of 10^9.

    Args:
        network: In eval mode.
        takes_batches: Whether its input is a tensor (N, 3, H, W), or a list of (3, H, W).
    """
    x_NCHW = to_input([pages.validation().page(0).pixels])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(x_NCHW if takes_batches else list(x_NCHW))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() / 2e9


def _card(facts: Facts, weights: bytes, plan: Plan, measured: AveragePrecision, costs: tuple[int, float]) -> str:
    size = "" if facts.input_size_px is None else f"input_size_px = {facts.input_size_px}\n"
    iou = "" if facts.iou_threshold is None else f"iou_threshold = {facts.iou_threshold}\n"
    return _CARD.format(
        name=facts.name,
        description=facts.description,
        network=facts.network,
        labels=json.dumps(facts.labels),
        parity=json.dumps([f"parity/{number}.png" for number in range(pages.NUM_PARITY)]),
        licence=facts.licence,
        arguments="\n".join(f"{name} = {json.dumps(value)}" for name, value in facts.arguments.items()),
        sha256=hashlib.sha256(weights).hexdigest(),
        detection=f"\n[detection]\n{size}{iou}" if size or iou else "",
        num_params=costs[0],
        gflops=costs[1],
        origin=facts.origin,
        num_pages=plan.num_pages,
        licence_reason=f"{facts.licence}: {facts.licence_reason}. " if facts.licence_reason else "",
        num_training=len(digits.training_split()),
        looks=plan.num_pages * plan.epochs,
        num_measured=measured.num_pages,
        num_objects=measured.num_objects,
        num_test=len(digits.test_split()),
        per_class=", ".join(f"{label}: {value:.3f}" for label, value in measured.per_class.items()),
        map50=measured.map50,
        map50_95=measured.map50_95,
    )
