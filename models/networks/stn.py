"""Spatial transformer network (Jaderberg, Simonyan, Zisserman, Kavukcuoglu: Spatial Transformer Networks, 2015).

Shape suffixes: N images, C channels, H height, W width, D features, K classes; 23 an affine matrix (2, 3), 33 the same
with the row (0, 0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attended(NamedTuple):
    """What a spatial transformer network answers."""

    logits: Tensor
    """float of shape (N, K)."""
    theta: Tensor
    """float32 of shape (N, 2, 3): from (x, y, 1) in the rectified image to (x, y) in the input, both in [-1, 1] from
    edge to edge (``align_corners=False``)."""
    rectified: Tensor
    """What the classifier saw, in the units of the input."""


class SpatialTransformerNetwork(nn.Module):
    """Finds an object, straightens it, and classifies what it sees.

    Several transformers follow one another as in Lin and Lucey (Inverse compositional spatial transformer networks,
    2017): each refines the matrix so far and the input itself is sampled anew, so nothing is lost at the borders.

    Args:
        num_classes: K, the number of outputs.
        in_channels: C, the number of input channels.
        rectified_px: Side of the square image that the classifier sees.
        num_transformers: How many localisation networks refine the matrix in turn; 0 leaves the transformer out, and
            the same classifier sees the whole input.
        classifier_channels: Width of each block of the classifier.
        localisation_channels: Width of each block of a localisation network.
        localisation_px: Side of the square to which a localisation network's input is averaged.
        localisation_features: D of the localisation networks' hidden layer.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        rectified_px: int = 32,
        num_transformers: int = 1,
        classifier_channels: Sequence[int] = (16, 32, 64),
        localisation_channels: Sequence[int] = (16, 32, 48),
        localisation_px: int = 32,
        localisation_features: int = 64,
    ) -> None:
        super().__init__()
        self.rectified_px = rectified_px
        self.localisations = nn.ModuleList(
            Localisation(in_channels, localisation_channels, side_px=localisation_px, features=localisation_features)
            for _ in range(num_transformers)
        )
        self.classifier = Classifier(in_channels, classifier_channels, num_classes=num_classes)

    def forward(self, x_NCHW: Tensor) -> Attended:
        """Attend, rectify and classify.

        Args:
            x_NCHW: Images of shape (N, C, H, W) of any size.
        """
        theta_N33 = torch.eye(3, device=x_NCHW.device).expand(len(x_NCHW), 3, 3)
        rectified_NCHW = x_NCHW
        for localisation in self.localisations:
            theta_N33 = compose(theta_N33, localisation(rectified_NCHW))
            rectified_NCHW = sample(x_NCHW, theta_N33[:, :2], side_px=self.rectified_px)
        return Attended(self.classifier(rectified_NCHW), theta_N33[:, :2], rectified_NCHW)


class Localisation(nn.Module):
    """Finds an affine matrix; answers the identity until it is trained.

    It says for each place of a feature map how much it speaks for being the centre. The mean place, so weighted, gives
    the shift, and the mean features the rest.

    Args:
        in_channels: C, the number of input channels.
        channels: Width of each convolutional block; every one but the last halves the sides.
        side_px: Side of the square to which the input is averaged first.
        features: D, the width of the hidden layer.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, side_px: int, features: int) -> None:
        super().__init__()
        self.side_px = side_px
        self.blocks = nn.Sequential(
            *(block(*widths, pooled=index < len(channels) - 1) for index, widths in _widths(in_channels, channels))
        )
        self.salience = nn.Conv2d(channels[-1], 1, kernel_size=1)
        self.hidden = nn.Sequential(nn.Linear(channels[-1], features), nn.ReLU())
        self.affine = nn.Linear(features, 6)
        for parameter in (*self.salience.parameters(), *self.affine.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Give affine matrices, float32 of shape (N, 3, 3)."""
        maps_NCHW = self.blocks(functional.adaptive_avg_pool2d(x_NCHW, self.side_px))
        weight_NP1 = self.salience(maps_NCHW).float().flatten(2).softmax(dim=2).transpose(1, 2)
        features_NC = (maps_NCHW.flatten(2) @ weight_NP1.to(maps_NCHW.dtype)).squeeze(2)
        change_N23 = self.affine(self.hidden(features_NC)).float().view(-1, 2, 3)
        shift_N21 = (centres(maps_NCHW).T * weight_NP1.transpose(1, 2)).sum(dim=2, keepdim=True)
        change_N23 = change_N23 + functional.pad(shift_N21, (2, 0))
        return torch.eye(3, device=x_NCHW.device) + functional.pad(change_N23, (0, 0, 0, 1))


class Classifier(nn.Module):
    """A plain convolutional classifier for images of any size.

    Args:
        in_channels: C, the number of input channels.
        channels: Width of each convolutional block; every one halves the sides.
        num_classes: K, the number of outputs.
        dropout: Part of the features that training leaves out.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], *, num_classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(block(*widths, pooled=True) for _, widths in _widths(in_channels, channels)))
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(channels[-1] * 16, num_classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Classify; gives logits of shape (N, K)."""
        features_ND = self.pool(self.blocks(x_NCHW)).flatten(1)
        logits_NK: Tensor = self.output(self.dropout(features_ND))
        return logits_NK


def block(before: int, after: int, *, pooled: bool) -> nn.Sequential:
    """Build a 3x3 convolution with batch normalisation and ReLU, and pooling that halves the sides where wanted."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.MaxPool2d(2) if pooled else nn.Identity(),
    )


def centres(maps_NCHW: Tensor) -> Tensor:
    """Say where the cells of a feature map lie: float32 (P, 2), x before y, in [-1, 1] from edge to edge, by row."""
    height, width = maps_NCHW.shape[-2:]
    y, x = (((torch.arange(side, device=maps_NCHW.device) + 0.5) / side * 2 - 1) for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 2)


def compose(outer_N33: Tensor, inner_N33: Tensor) -> Tensor:
    """Chain two affine maps, the inner one first; float32 of shape (N, 3, 3)."""
    with torch.autocast(outer_N33.device.type, enabled=False):
        return outer_N33 @ inner_N33


def sample(x_NCHW: Tensor, theta_N23: Tensor, *, side_px: int) -> Tensor:
    """Sample a square image bilinearly through an affine matrix; beyond the borders the input counts as 0.

    Args:
        x_NCHW: Images of shape (N, C, H, W).
        theta_N23: float32 of shape (N, 2, 3); see ``Attended``.
        side_px: Side of the result.

    Returns:
        Shape (N, C, side_px, side_px), dtype of ``x_NCHW``.
    """
    # Coordinates of 8 bits would lie a quarter of a pixel off, so bf16 is left aside here.
    with torch.autocast(x_NCHW.device.type, enabled=False):
        shape = [len(x_NCHW), x_NCHW.shape[1], side_px, side_px]
        grid_NHW2 = functional.affine_grid(theta_N23.float(), shape, align_corners=False)
        return functional.grid_sample(x_NCHW.float(), grid_NHW2, align_corners=False).to(x_NCHW.dtype)


def _widths(in_channels: int, channels: Sequence[int]) -> list[tuple[int, tuple[int, int]]]:
    return list(enumerate(pairwise((in_channels, *channels))))
