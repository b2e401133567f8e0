"""The weights of a layer as pictures.

Shape suffixes: K filters, C input channels, H height, W width, D input values.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from models.errors import UnsupportedOption
from models.visualization.layers import Survey


def first_filters(survey: Survey, input_shape_CHW: tuple[int, int, int]) -> str:
    """Name the layer whose weights meet the pixels: the first convolution, else a linear layer over the whole input.

    Raises:
        UnsupportedOption: There is neither.
    """
    if survey.convolutions:
        return survey.convolutions[0]
    for name in survey.layers:
        module = survey.network.get_submodule(name)
        if isinstance(module, nn.Linear) and module.in_features == math.prod(input_shape_CHW):
            return name
    raise UnsupportedOption(
        f"Expected a convolution, or a linear layer over all pixels, in {type(survey.network).__name__}, whose "
        "weights could be shown. Use the method activation_maximization."
    )


def filters(survey: Survey, layer: str, input_shape_CHW: tuple[int, int, int]) -> Tensor:
    """Give the filters of a layer: (K, C, H, W), the bias left out.

    Args:
        survey: Of the network.
        layer: A convolution; C counts the channels of one group. Or a linear layer over all pixels.
        input_shape_CHW: Of the network's input, for linear layers.

    Raises:
        UnsupportedOption: The layer is neither.
    """
    survey.check(layer)
    module = survey.network.get_submodule(layer)
    if isinstance(module, nn.Conv2d):
        return module.weight.detach()
    if isinstance(module, nn.Linear) and module.in_features == math.prod(input_shape_CHW):
        return module.weight.detach().view(-1, *input_shape_CHW)
    raise UnsupportedOption(
        f"Expected a convolution, or a linear layer over all pixels, got {layer!r} ({type(module).__name__}). "
        f"Convolutions are {', '.join(survey.convolutions[:6]) or 'not there'}.",
        layer=layer,
    )
