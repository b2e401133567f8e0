"""Features: what a module inside a network puts out, pooled to one vector per image.

Shape suffixes: N images, C channels, H height, W width, L tokens, D features.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.errors import UnknownLayer
from models.heads import find_head

Pooling = Literal["avg", "max", "flatten"]
"""How a feature map becomes a vector: the mean or the maximum over positions, or all values in order."""

INPUT = ":input"
"""Ending of a layer's name that means what enters the module instead of what it puts out."""
LAYERS_SHOWN = 6
"""How many names an error message lists."""


def default_layer(network: nn.Module, probe_NCHW: Tensor) -> str:
    """Name the input of the classifier's head, such as ``fc:input``.

    Args:
        network: In eval mode.
        probe_NCHW: One input.

    Raises:
        ModelLoadFailed: The network has no head that can be found.
    """
    return find_head(network, probe_NCHW) + INPUT


def check_layer(network: nn.Module, layer: str) -> None:
    """Make sure that a network has a layer.

    Raises:
        UnknownLayer: It has not; the message names close ones.
    """
    name = layer.removesuffix(INPUT)
    known = [known for known, _ in network.named_modules() if known]
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=LAYERS_SHOWN, cutoff=0.4)
    close = close or [other for other in known if "." not in other][:LAYERS_SHOWN]
    raise UnknownLayer(
        f"Expected a module of {type(network).__name__} by its dotted name, got {layer!r}. "
        f"Close names: {', '.join(close) or 'none, it has no modules'}. NAME{INPUT} means what enters a module.",
        layer=layer,
        close=close,
    )


class Features:
    """Runs a network and gives the features that pass through one of its layers.

    Args:
        network: In eval mode; it keeps its own answers. Not for use from several threads at once.
        layer: Dotted name of the module whose output is taken, or ``NAME:input`` for what enters it.
        pooling: How several positions become one vector.

    Raises:
        UnknownLayer: The network has no such module.
    """

    def __init__(self, network: nn.Module, layer: str, pooling: Pooling = "avg") -> None:
        check_layer(network, layer)
        self._network = network
        self._layer = layer
        self._pooling = pooling
        self._module = network.get_submodule(layer.removesuffix(INPUT))

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Give float32 features of shape (N, D), on the input's device.

        Raises:
            UnknownLayer: The module does not run, or has no output per image.
        """
        # Pooled at once and copied, because the next layer may overwrite what it is given.
        taken: list[Tensor] = []
        size_hw = (int(x_NCHW.shape[-2]), int(x_NCHW.shape[-1]))

        def take(value: Any) -> None:
            taken[:] = [self._pool(value, len(x_NCHW), size_hw)]

        def before(_: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            take(next(iter((*arguments, *named.values())), None))

        if self._layer.endswith(INPUT):
            handle = self._module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self._module.register_forward_hook(lambda _, __, output: take(output))
        try:
            self._network(x_NCHW)
        finally:
            handle.remove()
        if not taken:
            raise UnknownLayer(f"Expected {self._layer!r} to take part in the network's answer, it never ran.")
        return taken[0]

    def _pool(self, value: Any, num_images: int, size_hw: tuple[int, int]) -> Tensor:
        # Attention and networks with auxiliary outputs give tuples, what matters first.
        features = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(features, Tensor):
            raise UnknownLayer(f"Expected a tensor from {self._layer!r}, got {type(features).__name__}.")
        if features.ndim < 2 or len(features) != num_images:
            raise UnknownLayer(
                f"Expected one output per image from {self._layer!r}, got shape {tuple(features.shape)} for "
                f"{num_images} image(s). Take a module further out."
            )
        return pool(features, self._pooling, size_hw)


def pool(features: Tensor, pooling: Pooling, size_hw: tuple[int, int]) -> Tensor:
    """Pool feature maps (N, C, H, W) or (N, H, W, C), token sequences (N, L, D) or vectors (N, D) to vectors.

    Args:
        features: Of any floating dtype.
        pooling: How.
        size_hw: Height and width of the network's input; of a feature map's axes, the two in that proportion are
            its positions.

    Returns:
        float32 of shape (N, D), sharing no memory with what came in.

    Raises:
        UnknownLayer: There are more axes than can be told apart.
    """
    features = features.float()
    if pooling == "flatten" or features.ndim == 2:
        return features.flatten(1).clone()
    if features.ndim > 4:
        raise UnknownLayer(
            f"Expected at most four axes to pool, got shape {tuple(features.shape)}. Use the pooling 'flatten'."
        )
    positions = (1,) if features.ndim == 3 else position_axes(features.shape, size_hw)
    return features.mean(positions) if pooling == "avg" else features.amax(positions)


def position_axes(shape: torch.Size, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Tell (N, C, H, W) from (N, H, W, C), as Swin has it, by the input's proportions; the former when in doubt."""

    def mismatch(axes: tuple[int, int]) -> float:
        height, width = (max(shape[axis], 1) for axis in axes)
        return abs(math.log(height / width) - math.log(size_hw[0] / size_hw[1]))

    return min(((2, 3), (1, 2)), key=mismatch)
