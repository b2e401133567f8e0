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


def spatial_layers(network: nn.Module, probe_1CHW: Tensor) -> dict[str, tuple[int, int]]:
    """Name every module that puts out a feature map, in the order in which they end, with the map's height and width.

    Modules that run several times are left out: which of their maps is meant cannot be said.

    Args:
        network: In eval mode.
        probe_1CHW: One input.
    """
    runs: dict[str, int] = {}
    found: dict[str, tuple[int, int]] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == 1 and output[0, 0].numel() > 1:
                found[name] = (int(output.shape[2]), int(output.shape[3]))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(probe_1CHW)
    finally:
        for handle in handles:
            handle.remove()
    return {name: size_hw for name, size_hw in found.items() if runs[name] == 1}


def default_layer(network: nn.Module, probe_1CHW: Tensor) -> str:
    """Name the last module with a feature map (N, C, h, w), pooling aside.

    Raises:
        UnknownLayer: There is none; attention over patches keeps no such map.
    """
    found = spatial_layers(network, probe_1CHW)
    patches = any(isinstance(module, nn.MultiheadAttention) for module in network.modules())
    names = [name for name in found if not isinstance(network.get_submodule(name), _POOLING)]
    if patches or not names:
        hint = f" Modules before the attention that have one: {', '.join(names[-3:])}." if names else ""
        raise UnknownLayer(
            f"Expected a network that keeps a spatial feature map for grad_cam, {type(network).__name__} does not."
            f"{hint} Name one as layer, or use integrated_gradients, smoothgrad or occlusion.",
            close=names[-3:],
        )
    return names[-1]


def _check_spatial(network: nn.Module, layer: str, probe_1CHW: Tensor) -> None:
    check_layer(network, layer)
    found = spatial_layers(network, probe_1CHW)
    if layer not in found:
        raise UnknownLayer(
            f"Expected a layer for grad_cam that puts out one feature map (1, C, h, w), {layer!r} does not. "
            f"These do: {', '.join(list(found)[-6:]) or 'none'}.",
            layer=layer,
            close=list(found)[-6:],
        )
