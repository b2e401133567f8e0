"""torchvision's classification networks as cards, made from its own weights' metadata.

A network's recommended weights carry its plain name (``resnet50``); its other weights add theirs
(``resnet50.imagenet1k_v1``).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

from models.cards import Card, Cost, Preprocessing, Provenance, Quality, Serving, Weights
from models.errors import InvalidCard

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_BATCH = 32
"""Micro-batch of the zoo's networks, unless a worker is told otherwise."""

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def names() -> list[str]:
    """Name every model of the zoo."""
    return sorted(_weights())


def card(name: str) -> Card | None:
    """Make one model's card; ``None`` where the zoo has no such model."""
    weights = _weights().get(name)
    return None if weights is None else _make_card(name, weights)


def cards() -> list[Card]:
    """Make every card of the zoo."""
    return [_make_card(name, weights) for name, weights in sorted(_weights().items())]


def builder(name: str) -> Callable[..., nn.Module]:
    """Find one of torchvision's builders.

    Raises:
        InvalidCard: It has no such classification network.
    """
    from torchvision import models as registry

    if name not in registry.list_models(module=registry):
        raise InvalidCard(f"network: torchvision has no classification network {name!r}.", network=name)
    found: Callable[..., nn.Module] = registry.get_model_builder(name)
    return found


def build(card: Card, state: dict[str, Tensor]) -> nn.Module:
    """Let torchvision build one of its networks and fill in tensors that were already read and checked.

    Raises:
        RuntimeError: The tensors do not fit the network.
    """
    preloaded = _Preloaded(_weights()[card.name], state)
    return builder(card.network.partition(":")[2])(weights=preloaded)


def untrained_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the arguments with which a network is built before its owner's weights are filled in."""
    # Without it these two warn that their slow default initialisation will change.
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return {"weights": None, **slow, **arguments}


class _Preloaded:
    """Stands in for one of torchvision's weights, with tensors that were already read.

    torchvision's builders know what each checkpoint needs (renamed keys, auxiliary heads, input scaling), but
    unpickle it without restriction. They accept this object, because it names their enum as its class.
    """

    def __init__(self, weights: Any, state: dict[str, Tensor]) -> None:
        self.meta = weights.meta
        self._enum = type(weights)
        self._state = state

    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__("_enum" if name == "__class__" else name)

    def get_state_dict(self, **_: Any) -> dict[str, Tensor]:
        return self._state


@cache
def _weights() -> dict[str, Any]:
    return dict(_registered())


def _registered() -> Iterator[tuple[str, Any]]:
    # Imported late: it takes seconds, and a bundled or user model is found without it.
    from torchvision import models as registry

    for builder in registry.list_models(module=registry):
        enum = registry.get_model_weights(builder)
        for weights in enum:
            # Some are there for other networks to build on (VGG-16's features alone) and classify nothing.
            if not weights.meta.get("categories"):
                continue
            recommended = weights is enum.DEFAULT
            yield (builder if recommended else f"{builder}.{weights.name.lower()}"), weights


def _make_card(name: str, weights: Any) -> Card:
    builder, meta = name.partition(".")[0], weights.meta
    digits = _HASH_IN_NAME.search(posixpath.basename(weights.url))
    return Card(
        name=name,
        tasks=["classification"],
        description=f"{builder}, {weights.name}: {' '.join(meta.get('_docs', '').split())}".rstrip(": "),
        network=f"torchvision:{builder}",
        weights=Weights(url=weights.url, sha256=digits.group(1) if digits else None),
        labels=list(meta["categories"]),
        preprocess=_preprocessing(weights.transforms()),
        serving=Serving(max_batch=MAX_BATCH),
        cost=Cost(num_params=meta.get("num_params"), gflops=meta.get("_ops"), min_size_hw=meta.get("min_size")),
        licence=_licence(meta),
        provenance=Provenance(origin=f"torchvision, {type(weights).__name__}.{weights.name}", notes=meta.get("recipe")),
        quality=list(_quality(meta)),
    )


def _preprocessing(preset: Any) -> Preprocessing:
    return Preprocessing(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=cast(Literal["nearest", "bilinear", "bicubic", "lanczos"], preset.interpolation.value),
        mean=list(preset.mean),
        std=list(preset.std),
    )


def _licence(meta: dict[str, Any]) -> str:
    stated = meta.get("license")
    if stated:
        return f"as stated at {stated}"
    return "BSD-3-Clause as published by torchvision; trained on ImageNet-1K, whose images have terms of their own"


def _quality(meta: dict[str, Any]) -> Iterator[Quality]:
    for split, metrics in meta.get("_metrics", {}).items():
        for metric, percent in metrics.items():
            yield Quality(metric=metric, value=percent / 100, split=f"{split}, as published by torchvision")
