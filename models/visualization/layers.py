"""What the modules of a network put out, and their maps while it runs.

Shape suffixes: N images, C channels, H height, W width; 1 one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import ModelLoadFailed, UnknownLayer, UnsupportedOption
from models.features import check_layer, position_axes

RECTIFIERS = (nn.ReLU, nn.ReLU6)
"""Modules behind which a unit that is not excited has no gradient."""


@dataclass(frozen=True)
class Layer:
    """What one module puts out."""

    name: str
    """Its dotted name."""
    kind: str
    """Name of its class."""
    shape: tuple[int, ...]
    """Of its output for one image, without the axis of images; of the first, where it runs several times."""
    channels: int | None
    """Number of channels, or of units where there are no positions; none where the output has neither."""

    @property
    def has_positions(self) -> bool:
        """Whether a channel has a value at each place of a grid."""
        return len(self.shape) == 3


class Survey:
    """Every layer of a network, in the order in which they end.

    Args:
        network: In eval mode.
        probe_1CHW: One input; shapes are those that it causes.

    Raises:
        ModelLoadFailed: No module puts out channels.
    """

    def __init__(self, network: nn.Module, probe_1CHW: Tensor) -> None:
        self.network = network
        self.size_hw = (int(probe_1CHW.shape[-2]), int(probe_1CHW.shape[-1]))
        self.layers = _watch(network, probe_1CHW)
        if not any(layer.channels for layer in self.layers.values()):
            raise ModelLoadFailed(
                f"Expected modules of {type(network).__name__} that put out channels (N, C, H, W) or units (N, K), "
                "found none that run."
            )

    @property
    def convolutions(self) -> list[str]:
        """The convolutions over images, in order."""
        return [name for name in self.layers if isinstance(self.network.get_submodule(name), nn.Conv2d)]

    def last(self) -> str:
        """Name the last convolution, or the last layer with units where there is none."""
        return self.convolutions[-1] if self.convolutions else [*self.layers][-1]

    def check(self, layer: str, channels: Sequence[int] = ()) -> Layer:
        """Give a layer that has all of these channels.

        Raises:
            UnknownLayer: There is no such module, or it takes no part in the answer.
            UnsupportedOption: It has no channels, or fewer.
        """
        check_layer(self.network, layer)
        if layer not in self.layers:
            raise UnknownLayer(
                f"Expected a module whose output can be looked at, got {layer!r}, which is not run for every image as "
                "a whole. Name a module without ':input', such as "
                f"{', '.join([name for name, known in self.layers.items() if known.channels][-3:])}.",
                layer=layer,
            )
        found = self.layers[layer]
        if found.channels is None:
            raise UnsupportedOption(
                f"Expected a layer with channels (N, C, H, W) or units (N, K), got {layer!r} with the shape "
                f"(N, {', '.join(map(str, found.shape))}).",
                layer=layer,
            )
        if beyond := [channel for channel in channels if channel >= found.channels]:
            raise UnsupportedOption(
                f"Expected channels of {layer!r} from 0 to {found.channels - 1}, got {', '.join(map(str, beyond))}.",
                layer=layer,
                channels=found.channels,
            )
        return found


class _Enough(Exception):  # noqa: N818 - it tells of no error
    """Ends a pass once all layers that are wanted have run."""


class Maps:
    """Runs a network as far as some layers need it, and gives what they put out when they first run.

    Args:
        survey: Of the network; not for use from several threads at once.
        layers: Names, checked before.
        driven: Give what enters a rectifier in place of what leaves it, so that units at rest have a gradient.
    """

    def __init__(self, survey: Survey, layers: Sequence[str], *, driven: bool = False) -> None:
        self._survey = survey
        self._layers = list(dict.fromkeys(layers))
        self._driven = driven

    def __call__(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """Give the maps (N, C, H, W) of each layer; units without positions have H = W = 1.

        The copies given share no memory with what the network overwrites later, and lead gradients to the input.
        """
        taken: dict[str, Tensor] = {}
        left = set(self._layers)
        size_hw = (int(x_NCHW.shape[-2]), int(x_NCHW.shape[-1]))

        def take(name: str, value: Any) -> None:
            if name not in taken:
                taken[name] = _channels_first(_first(value), size_hw).clone()

        def after(name: str) -> Any:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                take(name, output)
                left.discard(name)
                if not left:
                    raise _Enough

            return hook

        with _hooks(self._survey.network, self._layers, after, take if self._driven else None), suppress(_Enough):
            self._survey.network(x_NCHW)
        return {name: taken[name] for name in self._layers}


@contextmanager
def _hooks(network: nn.Module, layers: Sequence[str], after: Any, take_input: Any) -> Iterator[None]:
    handles = []
    for name in layers:
        module = network.get_submodule(name)
        handles.append(module.register_forward_hook(after(name)))
        if take_input is not None and isinstance(module, RECTIFIERS):
            handles.append(module.register_forward_pre_hook(lambda _, inputs, name=name: take_input(name, inputs)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def _watch(network: nn.Module, probe_1CHW: Tensor) -> dict[str, Layer]:
    size_hw = (int(probe_1CHW.shape[-2]), int(probe_1CHW.shape[-1]))
    layers: dict[str, Layer] = {}

    def note(name: str, kind: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            value = _first(output)
            if name in layers or not isinstance(value, Tensor) or value.ndim < 2 or len(value) != 1:
                return
            known = value.ndim in (2, 4) and value.is_floating_point()
            shape = tuple((_channels_first(value, size_hw) if value.ndim == 4 else value).shape[1:])
            layers[name] = Layer(name, kind, shape, shape[0] if known else None)

        return hook

    handles = [
        module.register_forward_hook(note(name, type(module).__name__))
        for name, module in network.named_modules()
        if name
    ]
    try:
        network(probe_1CHW)
    finally:
        for handle in handles:
            handle.remove()
    return layers


def _first(value: Any) -> Any:
    # Attention and networks with auxiliary outputs give tuples, what matters first.
    return value[0] if isinstance(value, tuple | list) and value else value


def _channels_first(value: Tensor, size_hw: tuple[int, int]) -> Tensor:
    if value.ndim == 2:
        return value[:, :, None, None]
    if value.ndim == 4 and position_axes(value.shape, size_hw) == (1, 2):
        return value.movedim(-1, 1)
    return value
