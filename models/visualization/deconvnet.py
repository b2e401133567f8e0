"""The deconvnet: what in an image excited a unit, projected back to its pixels.

Zeiler and Fergus: Visualizing and understanding convolutional networks, 2014. One activation is kept, all others are
zeroed, and it goes back through unpooling with the pooling's switches, ReLU, and the transposed filters. Unpooling is
what the gradient of max pooling does, transposed filters what that of a convolution does; so it is a gradient pass with
another rule for ReLU, which lets pass what is above zero on the way back, whatever it was on the way forth.

Shape suffixes: C channels, H height, W width; 1 one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.errors import UnsupportedOption
from models.relu_rules import has_relu, relu_rule
from models.visualization.layers import Maps, Survey
from models.visualization.peaks import Peak


def check_deconvnet(survey: Survey, probe_1CHW: Tensor) -> None:
    """Make sure that a deconvnet of a network would be one.

    Raises:
        UnsupportedOption: It has no ReLU.
    """
    if not has_relu(survey.network, probe_1CHW):
        raise UnsupportedOption(
            f"Expected a network with ReLU for the method deconvnet, {type(survey.network).__name__} has none. "
            "The methods activation_maximization, activations and filters work with every activation function.",
            method="deconvnet",
        )


class Deconvnet:
    """One image's way back from chosen layers; the forward pass is made once.

    Args:
        survey: Of a network with ReLU, fp32.
        layers: Names, checked before.
        x_1CHW: The network's input.
    """

    @torch.enable_grad()
    def __init__(self, survey: Survey, layers: Sequence[str], x_1CHW: Tensor) -> None:
        self._x_1CHW = x_1CHW.detach().clone().requires_grad_()
        with relu_rule("deconvolution"):
            self.maps = Maps(survey, layers)(self._x_1CHW)

    @torch.enable_grad()
    def project(self, unit: Peak) -> Tensor:
        """Project one activation back to the input: float32 (C, H, W), signed, zero outside its receptive field.

        Args:
            unit: With a position, where the layer has any; without one the channel's first value is taken. What is
                not above zero gives nothing.
        """
        maps_1CHW = self.maps[unit.layer]
        row, column = unit.position_yx or (0, 0)
        activation = maps_1CHW[0, unit.channel, row, column]
        # A scalar: torch checks the shapes of `grad_outputs` with sympy, whose import takes a second.
        kept = activation * activation.detach().clamp(min=0)
        (pattern_1CHW,) = torch.autograd.grad(kept, self._x_1CHW, retain_graph=True)
        return pattern_1CHW[0]
