"""U-Net (Ronneberger, Fischer, Brox: U-Net: convolutional networks for biomedical image segmentation, 2015).

Shape suffixes: N images, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """A contracting path, an expanding path, and a copy of each level's features from one to the other.

    The paper's network is ``UNet(num_classes=2, width=64, depth=4, padding="valid", normalise=False)``. Width doubles
    with each level down, and the sides halve.

    Args:
        num_classes: K, the number of outputs per pixel.
        in_channels: C, the number of input channels.
        width: Channels of the uppermost level.
        depth: How often the sides are halved.
        padding: ``same`` keeps the sides; ``valid`` convolves without padding as the paper does, so that the output
            is smaller than the input.
        normalise: Whether batch normalisation follows each 3x3 convolution; the paper has none.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 1,
        width: int = 64,
        depth: int = 4,
        padding: Literal["same", "valid"] = "same",
        normalise: bool = True,
    ) -> None:
        super().__init__()
        if depth < 1 or width < 1:
            raise ValueError(f"expected depth and width of at least 1, got depth {depth}, width {width}")
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            DoubleConv(before, after, padding=padding, normalise=normalise)
            for before, after in zip([in_channels, *widths], widths[:-1], strict=False)
        )
        self.bottom = DoubleConv(widths[-2], widths[-1], padding=padding, normalise=normalise)
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(below, above, kernel_size=2, stride=2) for below, above in upwards
        )
        self.up = nn.ModuleList(
            DoubleConv(2 * above, above, padding=padding, normalise=normalise) for _, above in upwards
        )
        self.pool = nn.MaxPool2d(2)
        self.output = nn.Conv2d(width, num_classes, kernel_size=1)
        self.depth = depth
        self.padding = padding

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Score every class at every pixel.

        Args:
            x_NCHW: Shape (N, C, H, W). With ``same`` padding H and W are multiples of ``2 ** depth``; with ``valid``
                every level's sides must be even before they are halved, as 572 is at depth 4.

        Returns:
            Logits of shape (N, K, H, W); with ``valid`` padding smaller, as 388 is for 572.

        Raises:
            ValueError: The sides cannot be halved so often.
        """
        copies: list[Tensor] = []
        for block in self.down:
            x_NCHW = block(x_NCHW)  # (N, width * 2**level, H / 2**level, W / 2**level)
            copies.append(x_NCHW)
            x_NCHW = self.pool(self._checked(x_NCHW))
        x_NCHW = self.bottom(x_NCHW)
        for enlarge, block, copy_NCHW in zip(self.enlarge, self.up, reversed(copies), strict=True):
            x_NCHW = enlarge(x_NCHW)
            x_NCHW = block(torch.cat([_centre(copy_NCHW, x_NCHW), x_NCHW], dim=1))
        logits_NKHW: Tensor = self.output(x_NCHW)
        return logits_NKHW

    def _checked(self, x_NCHW: Tensor) -> Tensor:
        height, width = x_NCHW.shape[-2:]
        if height % 2 or width % 2 or not height or not width:
            need = f"multiples of {2**self.depth}" if self.padding == "same" else "even sides before every halving"
            raise ValueError(f"expected {need} at depth {self.depth}, got {width}x{height} before a halving")
        return x_NCHW


class DoubleConv(nn.Sequential):
    """Twice a 3x3 convolution and a ReLU; (N, C, H, W) becomes (N, ``channels``, H, W), or 4 less with ``valid``.

    Args:
        in_channels: C.
        channels: Channels of the output.
        padding: As for ``UNet``.
        normalise: As for ``UNet``.
    """

    def __init__(self, in_channels: int, channels: int, *, padding: Literal["same", "valid"], normalise: bool) -> None:
        layers: list[nn.Module] = []
        for before in (in_channels, channels):
            layers.append(nn.Conv2d(before, channels, kernel_size=3, padding=padding, bias=not normalise))
            if normalise:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


def _centre(copy_NCHW: Tensor, x_NCHW: Tensor) -> Tensor:
    """Crop the middle of a copy to the sides of what it is joined with."""
    (height, width), (high, wide) = copy_NCHW.shape[-2:], x_NCHW.shape[-2:]
    top, left = (height - high) // 2, (width - wide) // 2
    return copy_NCHW[..., top : top + high, left : left + wide]
