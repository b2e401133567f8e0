"""torchvision's detectors with generated weights that find something: small inputs, lively heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision import models as registry
from torchvision.models import detection

NAMES = registry.list_models(module=detection)
NUM_CLASSES = 4
SIDE_PX = 96
_TWO_STAGE = {"rpn_post_nms_top_n_test": 30, "min_size": SIDE_PX, "max_size": 2 * SIDE_PX}
_ONE_STAGE = {"min_size": SIDE_PX, "max_size": 2 * SIDE_PX}


def scene(seed: int, size_wh: tuple[int, int] = (200, 150)) -> np.ndarray:
    """Draw a picture of coloured rectangles on noise, uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    picture = random.integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8) // 4
    for _ in range(8):
        x, y = random.integers(0, size_wh[0] - 30), random.integers(0, size_wh[1] - 30)
        picture[y : y + random.integers(15, 60), x : x + random.integers(15, 60)] = random.integers(0, 256, 3)
    return picture


def as_input(levels: np.ndarray) -> torch.Tensor:
    """What torchvision's own call takes: float (3, H, W) in [0, 1]."""
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 255


def generate(name: str, **arguments: Any) -> Any:
    """Build a network whose activations keep their size and whose scores spread over (0, 1)."""
    torch.manual_seed(3)
    if "rcnn" in name:
        arguments = _TWO_STAGE | arguments
    elif not name.startswith("ssd"):
        arguments = _ONE_STAGE | arguments
    sizes = {} if "keypoint" in name else {"num_classes": NUM_CLASSES}
    network: Any = registry.get_model(name, weights=None, weights_backbone=None, **sizes, **arguments)
    network.eval().requires_grad_(False)
    pictures = [as_input(scene(100)), as_input(scene(101))]
    settle(network.backbone, network.transform(pictures)[0].tensors)
    for layer, spread, shift in _scoring_layers(network):
        _liven(network, layer, pictures[:1], spread, shift)
    return network


def settle(network: nn.Module, batch: torch.Tensor) -> None:
    """Let batch normalisation see its own activations, which otherwise grow or fade with every block."""
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not layers:
        return
    for layer in layers:
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        network(batch)
    network.eval()


def _scoring_layers(network: Any) -> list[tuple[nn.Module, float, float]]:
    if hasattr(network, "roi_heads"):
        return [(network.roi_heads.box_predictor.cls_score, 1.5, 0.0)]
    head = network.head.classification_head
    if hasattr(head, "cls_logits"):
        return [(head.cls_logits, 1.0, -2.0)]
    return [(part if isinstance(part, nn.Conv2d) else part[-1], 1.0, 0.0) for part in head.module_list]


def _liven(network: nn.Module, layer: Any, pictures: list[torch.Tensor], spread: float, shift: float) -> None:
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda *call: seen.append(call[2].flatten()))
    network(pictures)
    hook.remove()
    layer.bias.zero_()
    layer.weight.mul_(spread / torch.cat(seen).std().clamp(min=1e-6))
    layer.bias.fill_(shift) if shift else None
