"""Builds a card's network without its weights: what it costs does not depend on them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models import loading, weights, zoo
from models.catalog import Entry
from models.heads import replace_head
from models.networks import yolo


class _WithoutMemory(TorchFunctionMode):
    """Makes parameters that take no memory; everything that networks compute while they are built has values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def is_checkpoint(entry: Entry) -> bool:
    """Say whether the network itself comes out of the weights' file."""
    return entry.card.network == f"ultralytics:{yolo.CHECKPOINT}"


def build_hollow(entry: Entry) -> nn.Module:
    """Build a network whose tensors have shapes and no values: quick, and for networks of any size.

    Returns:
        In eval mode, on the device ``meta``.

    Raises:
        ModelLoadFailed: The network's own code cannot be found or fails.
    """
    if is_checkpoint(entry):
        return loading.load(entry).to("meta")
    with _WithoutMemory(), warnings.catch_warnings():
        # Some builders copy nothing into nothing, and torch warns of it.
        warnings.simplefilter("ignore")
        network = _build(entry)
    return network.float().eval().requires_grad_(False).to("meta")


def build_real(entry: Entry) -> nn.Module:
    """Build a network that can run: with its weights where they are here, else untrained.

    Returns:
        In eval mode, float32, on the CPU.

    Raises:
        ModelLoadFailed: The network's own code cannot be found or fails.
    """
    if weights.present(entry) or entry.card.weights is None:
        return loading.load(entry)
    torch.manual_seed(0)
    return _build(entry).float().eval().requires_grad_(False)


def _build(entry: Entry) -> nn.Module:
    if entry.source != "torchvision":
        network = loading.build(entry)
        if entry.card.head is not None:
            replace_head(network, entry.card.head.layer, len(entry.card.labels))
        return network
    card = entry.card.model_copy(update={"arguments": _as_published(entry)})
    # With weights torchvision's builders leave out auxiliary heads, so they are given those of the network itself.
    return zoo.build(card, loading.build(replace(entry, card=card)).state_dict())


def _as_published(entry: Entry) -> dict[str, Any]:
    """Give the arguments with which a network has the tensors of its published weights."""
    builder = entry.card.network.partition(":")[2]
    known = inspect.signature(zoo.builder(builder)).parameters
    arguments: dict[str, Any] = {"aux_loss": True} if "aux_loss" in known else {}
    if builder.startswith("vit_") and entry.card.cost.min_size_hw is not None:
        arguments["image_size"] = entry.card.cost.min_size_hw[0]
    return arguments
