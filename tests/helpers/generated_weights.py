"""Weights for torchvision's networks that nobody trained, but that answer differently from picture to picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models as registry


def generate(name: str, inputs: Tensor, *, heads: tuple[str, ...], seed: int = 0, **arguments: Any) -> nn.Module:
    """Build one of torchvision's networks with made-up weights whose activations and answers are of ordinary size.

    Args:
        name: torchvision's builder.
        inputs: A batch to settle on.
        heads: The layers that make the logits, of which the network gives the sum in the field ``out``.
        seed: The same seed gives the same weights.
        arguments: What the builder is called with beside no weights, such as ``aux_loss=True``.
    """
    with torch.device("meta"):
        network: nn.Module = registry.get_model(name, weights=None, weights_backbone=None, **arguments)
    random = torch.Generator().manual_seed(seed)
    made = {key: _made(key, value, random) for key, value in network.state_dict().items()}
    network.load_state_dict(made, assign=True)
    network.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Otherwise what residual blocks add up grows with every block.
            module.momentum = None
    network.train()(inputs)
    logits = network.eval()(inputs)["out"]
    for head in map(network.get_submodule, heads):
        assert isinstance(head, nn.Conv2d)
        head.weight *= 3 / (logits - logits.mean(dim=(0, 2, 3), keepdim=True)).std()
    return network


def _made(key: str, value: Tensor, random: torch.Generator) -> Tensor:
    if not value.is_floating_point():
        return torch.zeros(value.shape, dtype=value.dtype)
    if value.ndim > 1:
        return torch.randn(value.shape, generator=random) * (2 / value[0].numel()) ** 0.5
    # Small steps from block to block, as trained networks have them, do not blow up the rounding of a hundred layers.
    level = 0.3 if key.endswith("bn3.weight") else float(key.endswith(("weight", "running_var")))
    return torch.full(value.shape, level)
