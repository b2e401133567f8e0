"""A small network in the manner of VGG (Simonyan, Zisserman: Very deep convolutional networks, 2014).

Shape suffixes: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor, nn


class VggSmall(nn.Module):
    """Stages of 3x3 convolutions and ReLU, each ended by 2x2 max pooling; then two linear layers.

    Every layer is a module with a name of its own (``features.conv2_1``), and nothing is normalised, so that what
    flows back from a unit to the pixels passes through convolutions, ReLU and pooling switches alone.

    Args:
        num_classes: K, the number of outputs.
        in_channels: C, the number of input channels.
        input_px: Height and width of the input; a multiple of two to the number of stages.
        stages: Output channels of each convolution, stage by stage.
        num_features: D, the width of the hidden linear layer.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        input_px: int = 64,
        stages: Sequence[Sequence[int]] = ((16,), (32, 32), (64, 64), (96, 96)),
        num_features: int = 64,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(_layers(in_channels, stages)))
        side = input_px // 2 ** len(stages)
        self.classifier = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(stages[-1][-1] * side * side, num_features),
                relu1=nn.ReLU(),
                fc2=nn.Linear(num_features, num_classes),
            )
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Classify; gives logits of shape (N, K) for inputs of shape (N, C, ``input_px``, ``input_px``)."""
        logits_NK: Tensor = self.classifier(self.features(x_NCHW).flatten(1))
        return logits_NK


def _layers(in_channels: int, stages: Sequence[Sequence[int]]) -> Iterator[tuple[str, nn.Module]]:
    for stage, widths in enumerate(stages, start=1):
        for place, channels in enumerate(widths, start=1):
            yield f"conv{stage}_{place}", nn.Conv2d(in_channels, channels, kernel_size=3, padding=1)
            yield f"relu{stage}_{place}", nn.ReLU()
            in_channels = channels
        yield f"pool{stage}", nn.MaxPool2d(kernel_size=2)
