"""The network that retraining starts from: loaded, its head found, and how the new model's card will build it again.

Shape suffixes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from models import weights
from models.cards import Hooks as CardHooks
from models.catalog import Entry
from models.devices import pick_device
from models.errors import NoSuchDevice, RetrainFailed
from models.features import INPUT, Features
from models.heads import fill_head, find_head, replace_head
from models.loading import Hooks, hooks, load
from models.parity import synthetic
from models.preprocess import Preprocess
from models.retrain.options import Report, unreported


@dataclass
class Base:
    """A classification network to retrain.

    Attributes:
        entry: Its catalog entry.
        network: With its weights in, in eval mode.
        head: Name of the layer that makes the logits.
        keeps_postprocess: Whether the network's own output is no table of logits before the card's hook.
        device: Where it computes.
    """

    entry: Entry
    network: nn.Module
    head: str
    keeps_postprocess: bool
    device: torch.device
    _hooks: Hooks

    def prepare(self, image: Image.Image) -> Tensor:
        """Make the network's input from an upright picture: float32 of shape (C, H, W)."""
        preprocess = self._hooks.preprocess or Preprocess(self.entry.card.preprocess)
        return preprocess(image)

    def features(self) -> Features:
        """What enters the head, pooled over positions."""
        return Features(self.network, self.head + INPUT)

    def replace(self, weight_KD: Tensor, bias_K: Tensor) -> None:
        """Put a linear layer with these weights in the place of the head."""
        replace_head(self.network, self.head, len(bias_K))
        self.network.to(self.device)
        fill_head(self.network, self.head, weight_KD, bias_K)

    def logits(self, inputs_NCHW: Tensor) -> Tensor:
        """Give the logits (N, K) as the new model's worker will."""
        output = self.network(inputs_NCHW)
        if self.keeps_postprocess:
            assert self._hooks.postprocess is not None
            output = self._hooks.postprocess(output)
        if not isinstance(output, Tensor) or output.ndim != 2:
            raise RetrainFailed(
                f"Expected logits of shape (N, K) from {self.entry.name}, got "
                f"{tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}."
            )
        return output

    def card_fields(self) -> dict[str, Any]:
        """Those fields of the new card that say how the network is built and what goes into it."""
        card = self.entry.card
        return {
            "network": card.network,
            "arguments": {**self._published_arguments(), **card.arguments},
            "preprocess": card.preprocess,
            "embedding": card.embedding,
            "hooks": CardHooks(
                preprocess=card.hooks.preprocess,
                postprocess=card.hooks.postprocess if self.keeps_postprocess else None,
            ),
        }

    def _published_arguments(self) -> dict[str, Any]:
        """With which torchvision's builder makes what it would make for its own weights."""
        origin, _, builder = self.entry.card.network.partition(":")
        if origin != "torchvision" or self.entry.source != "torchvision":
            return {}
        if builder in ("googlenet", "inception_v3"):
            return {"transform_input": True, "aux_logits": False}
        size_hw = self.entry.card.cost.min_size_hw
        return {"image_size": size_hw[0]} if builder.startswith("vit_") and size_hw is not None else {}


def open_base(entry: Entry, device: str, report: Report = unreported) -> Base:
    """Load a network and find its head.

    Args:
        entry: A model that can classify.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        report: Told of weights that are fetched.

    Raises:
        RetrainFailed: The model does not classify, or there is no such device.
        ModelLoadFailed: It cannot be loaded, or has no head that can be found.
    """
    if "classification" not in entry.card.tasks:
        raise RetrainFailed(
            f"Expected a base model that classifies, {entry.name} does {', '.join(entry.card.tasks)}. "
            "`visionpipe models list --task classification` names some.",
            model=entry.name,
        )
    weights.pull(entry, lambda done, total: report("fetching weights", done, total or done, ""))
    where, own = _device(device), hooks(entry)
    network = _without_auxiliary_head(load(entry)).to(where)
    base = Base(entry, network, "", keeps_postprocess=False, device=where, _hooks=own)
    probe_NCHW = base.prepare(synthetic(0))[None].to(where)
    with torch.inference_mode():
        output = network(probe_NCHW)
    base.keeps_postprocess = own.postprocess is not None and not (isinstance(output, Tensor) and output.ndim == 2)
    base.head = find_head(network, probe_NCHW)
    return base


def _without_auxiliary_head(network: nn.Module) -> nn.Module:
    """Drop the head that helped Inception v3 to learn its own classes; it would answer beside ours in training."""
    from torchvision.models import Inception3

    if isinstance(network, Inception3):
        network.aux_logits, network.AuxLogits = False, None
    return network


def _device(wanted: str) -> torch.device:
    try:
        device = pick_device(wanted)
    except NoSuchDevice as error:
        raise RetrainFailed(error.message) from error
    return device
