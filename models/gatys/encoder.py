"""Any network of VGG's kind as an encoder of pictures: its layers by their usual names, average pooling, no gradients
for its weights.

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.card_tables import StyleTransferDefaults
from models.errors import ModelLoadFailed, UnknownLayer

DEFAULT_LAYERS = StyleTransferDefaults(
    content_layers={"relu4_2": 1.0},
    style_layers={"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "relu5_1": 1.0},
)
"""Compared unless a card says otherwise, as Gatys et al. chose."""
LAYERS_SHOWN = 8
"""How many names an error message lists."""


@dataclass(frozen=True)
class Reach:
    """What one position of a layer's output sees of the input."""

    stride: int = 1
    """Pixels between neighbouring positions."""
    field: int = 1
    """Side of the receptive field, in pixels."""

    def through(self, kernel: int, stride: int) -> Reach:
        """Add one more convolution or pooling."""
        return Reach(self.stride * stride, self.field + (kernel - 1) * self.stride)


class Encoder:
    """Gives the features of chosen layers.

    Layers have VGG's names: ``relu3_1`` follows the first convolution after the second pooling; so ``conv``, ``bn``,
    ``relu`` and ``pool``. Pooling takes the average, whatever the network was trained with: the pictures are
    smoother (Gatys et al., 2015). The network itself is not changed.

    Args:
        network: Has ``features``, a ``Sequential`` of convolutions, batch normalisation, ReLU and pooling, such as
            torchvision's VGG; float32, in eval mode.
        mean: Of each input channel in [0, 1].
        std: Of each input channel.

    Raises:
        ModelLoadFailed: The network is not of that kind.
    """

    def __init__(self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self._layers = _named_layers(network)
        self.reach = _reaches(self._layers)
        device = next(network.parameters()).device
        self._mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, -1, 1, 1)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._mean.device

    @property
    def names(self) -> list[str]:
        """Every layer, in order."""
        return list(self._layers)

    def check(self, layers: Collection[str]) -> None:
        """Make sure that all of these layers exist.

        Raises:
            UnknownLayer: One does not; the message names close ones.
        """
        for layer in layers:
            if layer in self._layers:
                continue
            close = difflib.get_close_matches(layer, self.names, n=LAYERS_SHOWN)
            known = close or [name for name in self.names if name.startswith("relu")]
            raise UnknownLayer(
                f"Expected layers of the encoder, got {layer!r}. It has {', '.join(known)} and others.",
                layer=layer,
                known=known,
            )

    def __call__(self, image_1CHW: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """Give the features of some layers.

        Args:
            image_1CHW: Values in [0, 1].
            layers: Names, checked before; nothing beyond the last of them is computed.

        Returns:
            Name → features (1, C, h, w).
        """
        x_1CHW = (image_1CHW - self._mean) / self._std
        taken: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            if len(taken) == len(layers):
                break
            x_1CHW = layer(x_1CHW)
            if name in layers:
                taken[name] = x_1CHW
        return taken


def _named_layers(network: nn.Module) -> OrderedDict[str, nn.Module]:
    features = getattr(network, "features", None)
    if not isinstance(features, nn.Sequential):
        raise ModelLoadFailed(
            f"Expected an encoder with a Sequential 'features' as VGG has it, got {type(network).__name__}."
        )
    named: OrderedDict[str, nn.Module] = OrderedDict()
    block, number = 1, 0
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            number += 1
            named[f"conv{block}_{number}"] = layer
        elif isinstance(layer, nn.BatchNorm2d):
            named[f"bn{block}_{number}"] = layer
        elif isinstance(layer, nn.ReLU):
            # VGG's own works in place and would change what was taken before it.
            named[f"relu{block}_{number}"] = nn.ReLU()
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            named[f"pool{block}"] = nn.AvgPool2d(2)
            block, number = block + 1, 0
        else:
            raise ModelLoadFailed(
                "Expected convolutions, batch normalisation, ReLU and pooling alone in the encoder's features, got "
                f"{type(layer).__name__}."
            )
    return named


def _reaches(layers: OrderedDict[str, nn.Module]) -> dict[str, Reach]:
    reaches: dict[str, Reach] = {}
    reach = Reach()
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d):
            reach = reach.through(int(layer.kernel_size[0]), int(layer.stride[0]))
        elif isinstance(layer, nn.AvgPool2d):
            reach = reach.through(2, 2)
        reaches[name] = reach
    return reaches
