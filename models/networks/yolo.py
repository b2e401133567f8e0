"""YOLO networks of the installed ultralytics: built from its own descriptions, or read from a checkpoint.

Their outputs stay those of ultralytics. Nothing is downloaded, and ultralytics is imported only when a network is asked
for (see ``models.ultralytics_offline``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from models import ultralytics_offline
from models.errors import InvalidCard, ModelLoadFailed
from models.trust import why_not_guarded

CHECKPOINT = "checkpoint"
"""The name in a card for which the weights file brings the network with it: ``ultralytics:checkpoint``."""

_CLASSES = {
    "Detect": "DetectionModel",
    "v10Detect": "DetectionModel",
    "Segment": "SegmentationModel",
    "Segment26": "SegmentationModel",
    "RTDETRDecoder": "RTDETRDetectionModel",
}
"""Head → the class of ``ultralytics.nn.tasks`` that carries it."""


def build(name: str, *, nc: int = 80, ch: int = 3) -> nn.Module:
    """Build an untrained network.

    Args:
        name: A description that ultralytics ships, with its scale: ``yolo11n``, ``yolov8s-seg``, ``rtdetr-l``.
        nc: Number of classes.
        ch: Number of input channels.

    Returns:
        In training mode and not fused. Takes float (N, ch, H, W), RGB in [0, 1], sides multiples of its stride.

    Raises:
        InvalidCard: There is no such description, or it has neither a detection nor a segmentation head.
        ModelLoadFailed: ultralytics is not installed.
    """
    tasks = ultralytics_offline.import_module("ultralytics.nn.tasks")
    description: dict[str, Any] = tasks.yaml_model_load(_described(name))
    head = description["head"][-1][-2]
    if head not in _CLASSES:
        raise InvalidCard(
            f"network: expected a YOLO with a detection or segmentation head ({', '.join(_CLASSES)}), "
            f"{name!r} has {head}.",
            network=name,
        )
    network: nn.Module = getattr(tasks, _CLASSES[head])(description, ch=ch, nc=nc, verbose=False)
    return network


def read_checkpoint(path: Path) -> nn.Module:
    """Read a network from a checkpoint of ultralytics; it is a pickle and may run code, so it must be trusted.

    Args:
        path: A ``.pt`` file that ultralytics saved.

    Returns:
        In eval mode, float32, fused only if it was saved so. Its class names are ``names``, by index.

    Raises:
        ModelLoadFailed: The file is missing or damaged, everybody may write it, it needs what is not installed, or does
            neither detection nor segmentation.
    """
    if not path.is_file():
        raise ModelLoadFailed(f"{path}: expected a checkpoint of ultralytics, found no file.", file=str(path))
    if (danger := why_not_guarded(path)) is not None:
        raise ModelLoadFailed(
            f"{path}: a checkpoint of ultralytics is a program, and {danger}. Take that right away: chmod o-w.",
            file=str(path),
        )
    tasks = ultralytics_offline.import_module("ultralytics.nn.tasks")
    try:
        network, _ = tasks.load_checkpoint(str(path))
    except Exception as error:
        # A pickle may raise anything.
        raise ModelLoadFailed(
            f"{path}: expected a checkpoint that ultralytics saved; reading it failed with "
            f"{type(error).__name__}: {error}",
            file=str(path),
        ) from error
    if network.task not in ("detect", "segment"):
        raise ModelLoadFailed(
            f"{path}: expected a network for detection or segmentation, got one for {network.task!r}.", file=str(path)
        )
    checked: nn.Module = network
    return checked


def fuse(network: nn.Module) -> nn.Module:
    """Fold batch normalisation into the convolutions, in place; answers stay the same up to rounding."""
    fused: nn.Module = network.fuse(verbose=False)  # type: ignore[operator]
    return fused


def _described(name: str) -> Path:
    """Name the file of a description as ultralytics wants it: with the scale, which is no part of the file's name."""
    package = ultralytics_offline.import_module("ultralytics").__file__
    files = {path.stem: path for path in Path(str(package)).parent.joinpath("cfg", "models").glob("*/*.yaml")}
    without_scale = re.sub(r"(\d)[nslmx](-.+)?$", r"\1\2", name)
    found = files.get(name) or files.get(without_scale)
    if found is None:
        raise InvalidCard(
            f"network: expected 'ultralytics:{CHECKPOINT}' or a network that the installed ultralytics describes "
            f"({', '.join(sorted(files))}; numbered ones take a scale: yolo11n), got {name!r}.",
            network=name,
        )
    return found.with_name(f"{name}.yaml")
