"""The table of our own networks: name → builder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from models.errors import InvalidCard
from models.networks.lenet import LeNet5
from models.networks.stn import SpatialTransformerNetwork
from models.networks.style_encoder import StyleEncoder
from models.networks.unet import UNet
from models.networks.vgg_small import VggSmall


def _fasterrcnn_small(**arguments: Any) -> nn.Module:
    # Imported late: torchvision's detectors take a second that other networks need not wait for.
    from models.networks.fasterrcnn import fasterrcnn_small

    network: nn.Module = fasterrcnn_small(**arguments)
    return network


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "fasterrcnn_small": _fasterrcnn_small,
    "lenet5": LeNet5,
    "stn": SpatialTransformerNetwork,
    "style_encoder": StyleEncoder,
    "unet": UNet,
    "vgg_small": VggSmall,
}
"""What a card may name without a colon."""


def find(name: str) -> Callable[..., nn.Module]:
    """Find the builder of one of our networks.

    Raises:
        InvalidCard: No network of ours has that name; the message lists them.
    """
    try:
        return NETWORKS[name]
    except KeyError:
        raise InvalidCard(
            f"network: expected one of {', '.join(sorted(NETWORKS))}, 'torchvision:<builder>', "
            f"'smp:<architecture>', 'ultralytics:<name>' or 'module:factory', got {name!r}.",
            network=name,
        ) from None
