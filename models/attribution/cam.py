"""Grad-CAM, and the layer it reads.

Shape suffixes: 1 one image, C channels, H height, W width, h w the feature map's.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attribution.answers import Explained, to_map
from models.attribution.attributor import Attributor, Steps
from models.errors import UnknownLayer
from models.features import check_layer, position_axes

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
MAX_STRETCH = math.log(2)
"""How far a map's proportions may be from the input's."""


class GradCam(Attributor):
    """Feature maps weighted by their mean gradients, what is above 0 enlarged to the input (Selvaraju et al., 2016)."""

    attribution_HW: Tensor | None = None
    layer = ""

    def steps(self) -> Steps:
        """Find the layer, then make the only step."""
        network, x_1CHW = network_of(self.question.classifier), self.question.x_1CHW
        if self.settings.layer:
            check_layer(network, self.settings.layer)
        found = _maps(network, x_1CHW)
        self.evaluations += 1
        self.layer = self.settings.layer or _last(network, found)
        if self.layer not in found:
            raise _not_spatial(self.layer, list(found))
        yield 1, 2
        size_hw = (int(x_1CHW.shape[-2]), int(x_1CHW.shape[-1]))
        is_last = _positions(found[self.layer].shape, size_hw) == (1, 2)
        map_11hw = self._map(network.get_submodule(self.layer), is_channels_last=is_last)
        enlarged = functional.interpolate(map_11hw, size=size_hw, mode="bilinear", align_corners=False)
        self.attribution_HW = enlarged[0, 0]
        self.evaluations += 1
        yield 2, 2

    def _map(self, module: nn.Module, *, is_channels_last: bool) -> Tensor:
        from captum.attr import LayerGradCam

        # captum takes the second axis for the channels, so it reads a module that turns the map, and is turned back.
        read = nn.Identity() if is_channels_last else module

        def turn(_: nn.Module, __: Any, output_1hwC: Tensor) -> Tensor:
            turned_1hwC: Tensor = read(output_1hwC.movedim(-1, 1)).movedim(1, -1)
            return turned_1hwC

        handle = module.register_forward_hook(turn) if is_channels_last else None
        try:
            with torch.enable_grad():
                x_1CHW = self.question.x_1CHW.detach().clone().requires_grad_()
                method = LayerGradCam(self.question.classifier, read)
                return cast(Tensor, method.attribute(x_1CHW, self.question.target, relu_attributions=True)).detach()
        finally:
            if handle is not None:
                handle.remove()

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


def default_layer(network: nn.Module, probe_1CHW: Tensor) -> str:
    """Name the last module with a feature map, (1, C, h, w) or (1, h, w, C), pooling aside.

    Modules that run several times are left out: which of their maps is meant cannot be said.

    Raises:
        UnknownLayer: There is none; attention over patches keeps no such map.
    """
    return _last(network, _maps(network, probe_1CHW))


def _last(network: nn.Module, found: dict[str, Tensor]) -> str:
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


def _positions(shape: torch.Size, size_hw: tuple[int, int]) -> tuple[int, int] | None:
    """Tell the axes of a feature map's positions; ``None`` if these are not in about the input's proportions."""
    first, second = position_axes(shape, size_hw)
    stretch = math.log(max(shape[first], 1) / max(shape[second], 1)) - math.log(size_hw[0] / size_hw[1])
    is_map = abs(stretch) <= MAX_STRETCH and shape[first] * shape[second] > 1
    return (first, second) if is_map else None


def _maps(network: nn.Module, probe_1CHW: Tensor) -> dict[str, Tensor]:
    """Give every module's feature map, in the order in which they end, unless it runs several times."""
    size_hw = (int(probe_1CHW.shape[-2]), int(probe_1CHW.shape[-1]))
    runs: dict[str, int] = {}
    found: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            runs[name] = runs.get(name, 0) + 1
            is_single = isinstance(output, Tensor) and output.ndim == 4 and len(output) == 1
            if is_single and _positions(output.shape, size_hw) is not None:
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


def _not_spatial(layer: str, known: list[str]) -> UnknownLayer:
    return UnknownLayer(
        "Expected a layer for grad_cam that puts out one feature map, (1, C, h, w) or (1, h, w, C) in about the "
        f"input's proportions, {layer!r} does not. These do: {', '.join(known[-6:]) or 'none'}.",
        layer=layer,
        close=known[-6:],
    )
