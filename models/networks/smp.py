"""Networks of segmentation-models-pytorch, for a user's own checkpoint; nothing is downloaded."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from models.errors import InvalidCard, ModelLoadFailed


def build(architecture: str, **arguments: Any) -> nn.Module:
    """Build an untrained network; gives logits (N, ``classes``, H, W) for (N, ``in_channels``, H, W).

    Args:
        architecture: Its name there: ``Unet``, ``UnetPlusPlus``, ``FPN``, ``DeepLabV3Plus``, ...
        arguments: ``encoder_name``, ``in_channels``, ``classes`` and so on, as in training.

    Raises:
        InvalidCard: It knows no such architecture.
        ModelLoadFailed: It is not installed.
    """
    # Imported late: it takes seconds, and few models need it.
    try:
        package = importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise ModelLoadFailed(
            f"network: 'smp:{architecture}' needs the package segmentation-models-pytorch, which cannot be imported "
            f"({error}). Install visionpipe[smp].",
            network=architecture,
        ) from error
    known = {cls.__name__: cls for cls in package.MODEL_ARCHITECTURES_MAPPING.values()}
    if architecture not in known:
        raise InvalidCard(
            f"network: expected smp: and one of {', '.join(sorted(known))}, got {architecture!r}.", network=architecture
        )
    # The encoder's own weights would be downloaded, only to be overwritten by the card's.
    network: nn.Module = known[architecture](**{**arguments, "encoder_weights": None})
    return network
