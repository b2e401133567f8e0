"""A small VGG-like encoder whose features describe textures, for style transfer.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn


class StyleEncoder(nn.Module):
    """Blocks of 3x3 convolutions with average pooling between them, named as VGG's layers are (``relu2_1``).

    Average pooling passes gradients to every pixel, which gives smoother pictures than the maximum (Gatys et al.,
    2015). Five blocks of the default widths see 108 pixels across.

    Args:
        widths: Channels of each block.
        depths: Convolutions of each block.
        in_channels: Channels of the input.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (24, 48, 96, 160, 160),
        depths: Sequence[int] = (2, 2, 2, 2, 1),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for block, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            if block > 1:
                layers[f"pool{block - 1}"] = nn.AvgPool2d(2)
            for number in range(1, depth + 1):
                layers[f"conv{block}_{number}"] = nn.Conv2d(channels, width, 3, padding=1)
                layers[f"relu{block}_{number}"] = nn.ReLU()
                channels = width
        self.features = nn.Sequential(layers)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Give the last block's features, (N, C, H / 16, W / 16) with the default blocks, rounded down."""
        features_NCHW: Tensor = self.features(x_NCHW)
        return features_NCHW
