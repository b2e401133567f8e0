"""From a catalog entry to a network with its weights in, and to the owner's own code around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from models import custom, networks, parity, weights, zoo
from models.catalog import Entry
from models.errors import InvalidCard, ModelLoadFailed, WeightsMismatch
from models.heads import replace_head
from models.networks import smp, yolo

NAMES_SHOWN = 6
"""How many tensor names an error message lists."""


@dataclass(frozen=True)
class Hooks:
    """The owner's own code around the network; ``None`` where the card names none."""

    preprocess: Callable[[Image.Image], Tensor] | None = None
    """From an upright picture to the input, float32 of shape (C, H, W)."""
    postprocess: Callable[[Tensor], Tensor] | None = None
    """From the network's output for a batch to what the task expects."""


def load(entry: Entry) -> nn.Module:
    """Build the network and fill in its weights.

    Returns:
        The network in eval mode, float32, on the CPU, with gradients switched off.

    Raises:
        WeightsUnavailable: The weights are not here and cannot be fetched.
        WeightsMismatch: They are damaged, not the ones the card names, or do not fit the network.
        ModelLoadFailed: The network's own code cannot be found or fails.
    """
    path = weights.pull(entry)
    if entry.card.network == f"ultralytics:{yolo.CHECKPOINT}":
        return _read_checkpoint(entry, path).float().eval().requires_grad_(False)
    state = None if path is None else weights.read(path)
    if entry.source == "torchvision" and state is not None:
        network = _build_zoo(entry, state)
    else:
        network = build(entry)
        if entry.card.head is not None:
            replace_head(network, entry.card.head.layer, len(entry.card.labels))
        if state is not None:
            _fill(entry, network, state)
    return network.float().eval().requires_grad_(False)


def hooks(entry: Entry) -> Hooks:
    """Find the owner's own pre- and postprocessing.

    Raises:
        ModelLoadFailed: The card names a function that is not there.
    """
    named = entry.card.hooks
    return Hooks(
        preprocess=None if named.preprocess is None else custom.find(entry, named.preprocess),
        postprocess=None if named.postprocess is None else custom.find(entry, named.postprocess),
    )


def parity_images(entry: Entry) -> list[Image.Image]:
    """Give the pictures on which faster arithmetic is compared with float32.

    Returns:
        Upright RGB or L pictures: those the card names, or a deterministic synthetic set.

    Raises:
        InvalidCard: A picture that the card names is missing or broken.
    """
    return parity.images(entry)


def build(entry: Entry) -> nn.Module:
    """Build the network alone, as it is before its weights are filled in; the head that retraining put in is missing.

    Raises:
        ModelLoadFailed: The network's own code cannot be found or fails.
    """
    name, arguments = entry.card.network, entry.card.arguments
    origin, colon, builder = name.partition(":")
    factory: Callable[..., Any]
    if not colon:
        factory = networks.find(name)
    elif origin == "torchvision":
        factory, arguments = zoo.builder(builder), zoo.untrained_arguments(builder, arguments)
    elif origin == "ultralytics":
        factory = partial(yolo.build, builder)
    elif origin == "smp":
        factory = partial(smp.build, builder)
    else:
        factory = custom.find(entry, name)
    network = custom.call(entry, factory, arguments)
    if not isinstance(network, nn.Module):
        raise ModelLoadFailed(
            f"{entry.name}: expected {name} to give a torch.nn.Module, got {type(network).__name__}.", model=entry.name
        )
    return network


def _read_checkpoint(entry: Entry, path: Path | None) -> nn.Module:
    if path is None or entry.folder is None:
        raise InvalidCard(
            f"{entry.name}: weights: expected the .pt file that ultralytics saved, in the model's own folder, "
            "got nothing.",
            model=entry.name,
        )
    return yolo.read_checkpoint(path)


def _build_zoo(entry: Entry, state: dict[str, Tensor]) -> nn.Module:
    try:
        return zoo.build(entry.card, state)
    except RuntimeError as error:
        raise WeightsMismatch(f"{entry.name}: the weights do not fit torchvision's network: {error}") from error


def _fill(entry: Entry, network: nn.Module, state: dict[str, Tensor]) -> None:
    if not hasattr(state, "_metadata"):
        # Safetensors keep no layer versions; without them layers take the file for one of their oldest.
        versioned = network.state_dict()
        versioned.clear()
        versioned.update(state)
        state = versioned
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsMismatch(
            f"{entry.name}: the weights do not fit {entry.card.network}: {error}", model=entry.name
        ) from error
    # Old files lack this counter, which only training reads.
    missing = [name for name in missing if not name.endswith(".num_batches_tracked")]
    if missing or unexpected:
        raise WeightsMismatch(
            f"{entry.name}: the weights do not fit {entry.card.network}: {_listed(missing)} missing, "
            f"{_listed(unexpected)} unexpected. Are the arguments those of the training?",
            model=entry.name,
            missing=list(missing),
            unexpected=list(unexpected),
        )


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more
