"""torchvision's networks as cards, made from its own weights' metadata; ``KINDS`` says which.

A network's recommended weights carry its plain name (``resnet50``); its other weights add theirs
(``resnet50.imagenet1k_v1``).
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, cast

from models.card_tables import SegmentationDefaults
from models.cards import Card, Cost, Preprocessing, Provenance, Quality, Serving, Task, Weights
from models.errors import InvalidCard

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_BATCH = 32
"""Micro-batch of the zoo's networks, unless a worker is told otherwise."""

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True)
class Kind:
    """What the networks of one of torchvision's registries have in common."""

    module: str
    """The module that registers them."""
    tasks: tuple[Task, ...]
    """What they can be asked."""
    preprocessing: Callable[[Any], Preprocessing]
    """Makes the card's table from torchvision's preset."""
    max_batch: int = MAX_BATCH
    """Their micro-batch."""
    tables: Callable[[], dict[str, Any]] = dict
    """Makes the card's tables of the task, by field."""

    @property
    def registry(self) -> ModuleType:
        """The module itself, imported late: it takes seconds, and a bundled or user model is found without it."""
        return importlib.import_module(self.module)


def names(task: Task | None = None) -> list[str]:
    """Name every model of the zoo, or those of one task."""
    return sorted(name for name, (kind, _) in _weights().items() if task is None or task in kind.tasks)


def card(name: str) -> Card | None:
    """Make one model's card; ``None`` where the zoo has no such model."""
    found = _weights().get(name)
    return None if found is None else _make_card(name, *found)


def cards() -> list[Card]:
    """Make every card of the zoo."""
    return [_make_card(name, *found) for name, found in sorted(_weights().items())]


def builder(name: str) -> Callable[..., nn.Module]:
    """Find one of torchvision's builders.

    Raises:
        InvalidCard: It has no such network for any of our tasks.
    """
    from torchvision import models as torchvision_models

    if not any(name in torchvision_models.list_models(module=kind.registry) for kind in KINDS):
        tasks = ", ".join(sorted({kind.tasks[0] for kind in KINDS}))
        raise InvalidCard(f"network: torchvision has no network {name!r} for {tasks}.", network=name)
    found: Callable[..., nn.Module] = torchvision_models.get_model_builder(name)
    return found


def build(card: Card, state: dict[str, Tensor]) -> nn.Module:
    """Let torchvision build one of its networks and fill in tensors that were already read and checked.

    Raises:
        RuntimeError: The tensors do not fit the network.
    """
    preloaded = _Preloaded(_weights()[card.name][1], state)
    return builder(card.network.partition(":")[2])(weights=preloaded)


def untrained_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the arguments with which a network is built before its owner's weights are filled in."""
    # Without it these two warn that their slow default initialisation will change.
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    # Networks with a backbone would download the backbone's weights.
    has_backbone = "weights_backbone" in inspect.signature(builder(name)).parameters
    backbone = {"weights_backbone": None} if has_backbone else {}
    return {"weights": None, **backbone, **slow, **arguments}


class _Preloaded:
    """Stands in for one of torchvision's weights, with tensors that were already read.

    torchvision's builders know what each checkpoint needs (renamed keys, auxiliary heads, input scaling), but
    unpickle it without restriction. They accept this object, because it names their enum as its class.
    """

    def __init__(self, weights: Any, state: dict[str, Tensor]) -> None:
        self.meta = weights.meta
        self._weights = weights
        self._enum = type(weights)
        self._state = state

    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__("_enum" if name == "__class__" else name)

    def __eq__(self, other: object) -> bool:
        # Some builders change a constant of the network for one of its weights.
        return other is self._weights

    def __hash__(self) -> int:
        return hash(self._weights)

    def get_state_dict(self, **_: Any) -> dict[str, Tensor]:
        return self._state


@cache
def _weights() -> dict[str, tuple[Kind, Any]]:
    return dict(_registered())


def _registered() -> Iterator[tuple[str, tuple[Kind, Any]]]:
    from torchvision import models as torchvision_models

    for kind in KINDS:
        for builder in torchvision_models.list_models(module=kind.registry):
            enum = torchvision_models.get_model_weights(builder)
            for weights in enum:
                # Some are there for other networks to build on (VGG-16's features alone) and classify nothing.
                if not weights.meta.get("categories"):
                    continue
                recommended = weights is enum.DEFAULT
                yield (builder if recommended else f"{builder}.{weights.name.lower()}"), (kind, weights)


def _make_card(name: str, kind: Kind, weights: Any) -> Card:
    builder, meta = name.partition(".")[0], weights.meta
    digits = _HASH_IN_NAME.search(posixpath.basename(weights.url))
    return Card(
        name=name,
        tasks=[*kind.tasks, *_MORE_TASKS.get(builder, ())],
        description=f"{builder}, {weights.name}: {' '.join(meta.get('_docs', '').split())}".rstrip(": "),
        network=f"torchvision:{builder}",
        weights=Weights(url=weights.url, sha256=digits.group(1) if digits else None),
        labels=list(meta["categories"]),
        preprocess=kind.preprocessing(weights.transforms()),
        serving=Serving(max_batch=kind.max_batch),
        cost=Cost(num_params=meta.get("num_params"), gflops=meta.get("_ops"), min_size_hw=meta.get("min_size")),
        licence=_licence(meta),
        provenance=Provenance(origin=f"torchvision, {type(weights).__name__}.{weights.name}", notes=meta.get("recipe")),
        quality=list(_quality(meta)),
        **kind.tables(),
    )


def _cropped(preset: Any) -> Preprocessing:
    return _resized(preset).model_copy(update={"crop": preset.crop_size[0]})


def _resized(preset: Any) -> Preprocessing:
    return Preprocessing(
        resize=preset.resize_size[0],
        interpolation=cast(Literal["nearest", "bilinear", "bicubic", "lanczos"], preset.interpolation.value),
        mean=list(preset.mean),
        std=list(preset.std),
    )


def _licence(meta: dict[str, Any]) -> str:
    stated = meta.get("license")
    if stated:
        return f"as stated at {stated}"
    data = "ImageNet-1K" if "ImageNet-1K" in meta.get("_metrics", {"ImageNet-1K": {}}) else "COCO"
    return f"BSD-3-Clause as published by torchvision; trained on {data}, whose images have terms of their own"


def _quality(meta: dict[str, Any]) -> Iterator[Quality]:
    for split, metrics in meta.get("_metrics", {}).items():
        for metric, percent in metrics.items():
            yield Quality(metric=metric, value=percent / 100, split=f"{split}, as published by torchvision")


KINDS: tuple[Kind, ...] = (
    Kind("torchvision.models", ("classification", "embedding"), _cropped),
    Kind(
        "torchvision.models.segmentation",
        ("segmentation",),
        _resized,
        max_batch=8,
        # Their shorter side is always 520, so only pictures four times as long are segmented in tiles.
        tables=lambda: {"segmentation": SegmentationDefaults(tile_px=2048)},
    ),
    # They resize and normalise by themselves.
    Kind(
        "torchvision.models.detection",
        ("detection",),
        lambda _: Preprocessing(mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0]),
        max_batch=8,
    ),
)
"""The registries that the zoo lists."""

_MORE_TASKS: dict[str, tuple[Task, ...]] = {"vgg16": ("style_transfer",), "vgg19": ("style_transfer",)}
