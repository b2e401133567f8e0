"""How a detector learns pages: the training loop that the recipes of both digit detectors share, on a CPU in bf16.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from models.recipes.pages import Page, Source

SEED = 2015
"""Seed of initialisation, order and colours."""

NUM_THREADS = 2
"""Of torch, in training."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn."""

    num_pages: int
    """Training pages, drawn once and kept."""
    epochs: int
    """How often each is seen."""
    batch: int = 16
    """Pages in one step."""
    peak_rate: float = 2e-3
    """Highest learning rate of the one-cycle schedule."""
    weight_decay: float = 5e-4
    """Of weights; not of biases and normalisation."""
    max_gradient: float = 10.0
    """Longer gradients are shortened to this norm."""


@dataclass(frozen=True)
class Batch:
    """Some pages as a network learns from them."""

    x_NCHW: Tensor
    """float32 in [0, 1], channels last in memory."""
    boxes_xyxy: list[Tensor]
    """Per page: float32 of shape (B, 4) in pixels."""
    labels: list[Tensor]
    """Per page: int64 of shape (B,)."""


def fit(network: nn.Module, loss: Callable[[Batch], Tensor], source: Source, plan: Plan, *, report: Report) -> None:
    """Train a network in place.

    Args:
        network: In any mode; left in eval mode.
        loss: Gives the mean loss of a batch, a scalar.
        source: Where the pages come from.
        plan: How long.
        report: Told of each epoch, in one line.
    """
    pages = list(source.pages(0, plan.num_pages))
    report(f"{len(pages)} training pages drawn")
    random = np.random.default_rng(SEED)
    optimizer = torch.optim.AdamW(_groups(network, plan.weight_decay), lr=plan.peak_rate)
    steps = plan.epochs * (len(pages) // plan.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.peak_rate, total_steps=steps, pct_start=0.1)
    network.train()
    for epoch in range(1, plan.epochs + 1):
        started, losses = time.monotonic(), []
        for batch in batches(pages, plan.batch, random):
            value = loss(batch)
            optimizer.zero_grad()
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(network.parameters(), plan.max_gradient)
            optimizer.step()
            schedule.step()
            losses.append(float(value.detach()))
        rate = len(losses) * plan.batch / (time.monotonic() - started)
        report(f"epoch {epoch} of {plan.epochs}: loss {np.mean(losses):.4f}, {rate:.0f} pages/s")
    network.eval()


def batches(pages: Sequence[Page], size: int, random: np.random.Generator) -> Iterator[Batch]:
    """Give whole batches in random order, each page with its colours swapped and perhaps inverted."""
    order = random.permutation(len(pages))
    for start in range(0, len(order) - size + 1, size):
        chosen = [pages[index] for index in order[start : start + size]]
        x_NCHW = to_input([_recoloured(page.pixels, random) for page in chosen])
        boxes = [torch.from_numpy(page.boxes_xyxy) for page in chosen]
        yield Batch(x_NCHW, boxes, [torch.from_numpy(page.labels) for page in chosen])


def to_input(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Give pages, RGB uint8 of shape (H, W, 3), as float32 of shape (N, 3, H, W) in [0, 1], channels last."""
    x_NCHW = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
    return x_NCHW.contiguous(memory_format=torch.channels_last)


def in_bf16(module: nn.Module) -> None:
    """Let a module compute in bf16 from here on and hand out float32; its weights stay float32.

    Strided convolutions compute in float32: on a CPU their gradients are several times slower in bf16.
    """
    module.forward = _cast(module.forward, low=True)
    for inner in module.modules():
        if isinstance(inner, nn.Conv2d) and max(inner.stride) > 1:
            inner.forward = _cast(inner.forward, low=False)  # type: ignore[method-assign]


def _cast(exact: Callable[..., Any], *, low: bool) -> Callable[..., Any]:
    def forward(*inputs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            outputs = exact(*tree_map_only(Tensor, Tensor.float, inputs))
        return tree_map_only(Tensor, Tensor.float, outputs) if low else outputs

    return forward


def _recoloured(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    swapped = pixels[..., random.permutation(3)]
    return np.invert(swapped) if random.random() < 0.5 else swapped


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
