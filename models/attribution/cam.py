"""Grad-CAM, and the layer it reads.

Shape suffixes: 1 one image, C channels, H height, W width, h w the feature map's.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attribution.answers import Explained, to_map
from models.attribution.attributor import Attributor, Steps
from models.errors import UnknownLayer
from models.features import check_layer

_POOLING = (
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.LPPool2d,
    nn.FractionalMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
)
"""These coarsen or repeat the map before them."""


class GradCam(Attributor):
    """Feature maps weighted by their mean gradients, what is above 0 enlarged to the input (Selvaraju et al., 2016)."""

    attribution_HW: Tensor | None = None
    layer = ""

    def steps(self) -> Steps:
        """Find the layer, then make the only step."""
        from captum.attr import LayerGradCam

        network = network_of(self.question.classifier)
        self.layer = self.settings.layer or default_layer(network, self.question.x_1CHW)
        _check_spatial(network, self.layer, self.question.x_1CHW)
        self.evaluations += 1
        yield 1, 2
        method = LayerGradCam(self.question.classifier, network.get_submodule(self.layer))
        with torch.enable_grad():
            x_1CHW = self.question.x_1CHW.detach().clone().requires_grad_()
            map_11hw = cast(Tensor, method.attribute(x_1CHW, self.question.target, relu_attributions=True)).detach()
        size_hw = self.question.x_1CHW.shape[-2:]
        enlarged = functional.interpolate(map_11hw, size=size_hw, mode="bilinear", align_corners=False)
        self.attribution_HW = enlarged[0, 0]
        self.evaluations += 1
        yield 2, 2

    @property
    def expected(self) -> int:
        """About how many images will go through the network."""
        return 2

    @property
    def has_estimate(self) -> bool:
        """Whether the map was made."""
        return self.attribution_HW is not None

    def best(self) -> Explained:
        """Give the map; never below 0."""
        assert self.attribution_HW is not None
        return Explained(to_map(self.attribution_HW), self.evaluations, layer=self.layer)


def network_of(classifier: nn.Module) -> nn.Module:
    """Give the network inside a ``models.classifier.Classifier``, whose names of layers people know."""
    inner = getattr(classifier, "network", None)
    return inner if isinstance(inner, nn.Module) else classifier


def spatial_layers(network: nn.Module, probe_1CHW: Tensor) -> list[str]:
    """Name every module that puts out a feature map (1, C, h, w), in the order in which they end.

    Modules that run several times are left out: which of their maps is meant cannot be said.

    Args:
        network: In eval mode.
        probe_1CHW: One input.
    """
    return list(_maps(network, probe_1CHW))


def default_layer(network: nn.Module, probe_1CHW: Tensor) -> str:
    """Name the last module with a feature map (1, C, h, w), pooling aside.

    Raises:
        UnknownLayer: There is none; attention over patches keeps no such map.
    """
    found = _maps(network, probe_1CHW)
    pooled = [map_1Chw for name, map_1Chw in found.items() if isinstance(network.get_submodule(name), _POOLING)]
    # A container that ends in pooling puts out what the pooling does.
    names = [name for name, map_1Chw in found.items() if not any(map_1Chw is other for other in pooled)]
    patches = any(isinstance(module, nn.MultiheadAttention) for module in network.modules())
    if patches or not names:
        hint = f" Modules before the attention that have one: {', '.join(names[-3:])}." if names else ""
        raise UnknownLayer(
            f"Expected a network that keeps a spatial feature map for grad_cam, {type(network).__name__} does not."
            f"{hint} Name one as layer, or use integrated_gradients, smoothgrad or occlusion.",
            close=names[-3:],
        )
    return names[-1]


def _maps(network: nn.Module, probe_1CHW: Tensor) -> dict[str, Tensor]:
    runs: dict[str, int] = {}
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == 1 and output[0, 0].numel() > 1:
                found[name] = output

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(probe_1CHW)
    finally:
        for handle in handles:
            handle.remove()
    return {name: map_1Chw for name, map_1Chw in found.items() if runs[name] == 1}


def _check_spatial(network: nn.Module, layer: str, probe_1CHW: Tensor) -> None:
    check_layer(network, layer)
    found = spatial_layers(network, probe_1CHW)
    if layer not in found:
        raise UnknownLayer(
            f"Expected a layer for grad_cam that puts out one feature map (1, C, h, w), {layer!r} does not. "
            f"These do: {', '.join(found[-6:]) or 'none'}.",
            layer=layer,
            close=found[-6:],
        )
