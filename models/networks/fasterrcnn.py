"""Faster R-CNN (Ren, He, Girshick, Sun 2015) for small images: torchvision's detector over a small backbone of ours.

The backbone is a residual network (He, Zhang, Ren, Sun 2016) with a feature pyramid (Lin et al. 2017).

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork, MultiScaleRoIAlign

ASPECT_RATIOS = (0.8, 1.3, 2.2)
"""Height over width of the anchors."""
POOL = 7
"""Side of the grid that the head sees of each proposal."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Args:
        in_channels: C of the input.
        channels: C of the output.
        stride: By how much the sides shrink.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            Conv2dNormActivation(in_channels, channels, 3, stride=stride),
            Conv2dNormActivation(channels, channels, 3, activation_layer=None),
        )
        same = stride == 1 and in_channels == channels
        self.shortcut = (
            nn.Identity()
            if same
            else Conv2dNormActivation(in_channels, channels, 1, stride=stride, activation_layer=None)
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Give features of shape (N, channels, H / stride, W / stride)."""
        summed: Tensor = self.activation(self.convolutions(x_NCHW) + self.shortcut(x_NCHW))
        return summed


class SmallPyramid(nn.Module):
    """A residual network whose last stages feed a feature pyramid.

    Args:
        channels: Width of the stem (at half the size) and of each stage, which halves the sides again.
        out_channels: Width of the pyramid.
        blocks: Residual blocks in each stage.
        num_levels: How many of the last stages feed the pyramid.
    """

    def __init__(self, channels: tuple[int, ...], *, out_channels: int, blocks: int, num_levels: int) -> None:
        super().__init__()
        self.stem = Conv2dNormActivation(3, channels[0], 3, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(before, after, stride=2), *(ResidualBlock(after, after) for _ in range(blocks - 1))
            )
            for before, after in pairwise(channels)
        )
        self.num_levels = num_levels
        self.pyramid = FeaturePyramidNetwork(list(channels[-num_levels:]), out_channels, norm_layer=nn.BatchNorm2d)
        self.out_channels = out_channels

    def forward(self, x_NCHW: Tensor) -> dict[str, Tensor]:
        """Give the pyramid's levels by name, from the finest, "0", to the coarsest: each (N, out_channels, H, W)."""
        stages = []
        x_NCHW = self.stem(x_NCHW)
        for stage in self.stages:
            x_NCHW = stage(x_NCHW)
            stages.append(x_NCHW)
        used = stages[-self.num_levels :]
        levels: dict[str, Tensor] = self.pyramid({str(level): features for level, features in enumerate(used)})
        return levels


def fasterrcnn_small(
    *,
    num_classes: int,
    size_px: int = 320,
    channels: tuple[int, ...] = (24, 40, 72, 128, 160),
    blocks: int = 2,
    out_channels: int = 64,
    head_features: int = 256,
    anchor_sizes_px: tuple[int, ...] = (28, 44, 68),
    **detector: Any,
) -> FasterRCNN:
    """Build a small Faster R-CNN.

    Args:
        num_classes: Number of classes, the background (class 0) among them, as torchvision counts.
        size_px: Images are resized until they fit into a square of this side.
        channels: Width of the backbone's stem and stages.
        blocks: Residual blocks in each stage.
        out_channels: Width of the feature pyramid.
        head_features: Width of the head's two hidden layers.
        anchor_sizes_px: Side of the anchors on each level of the pyramid, the finest first; one level each.
        detector: Further arguments of torchvision's ``FasterRCNN``, such as ``box_nms_thresh``.

    Returns:
        Takes a list of float images (3, H, W) in [0, 1] and gives a list of dicts as all of torchvision's detectors do:
        ``boxes`` xyxy in pixels, ``labels`` from 1, ``scores``.
    """
    levels = [str(level) for level in range(len(anchor_sizes_px))]
    backbone = SmallPyramid(tuple(channels), out_channels=out_channels, blocks=blocks, num_levels=len(anchor_sizes_px))
    return FasterRCNN(
        backbone,
        min_size=size_px,
        max_size=size_px,
        rpn_anchor_generator=AnchorGenerator(
            tuple((size,) for size in anchor_sizes_px), (ASPECT_RATIOS,) * len(anchor_sizes_px)
        ),
        box_roi_pool=MultiScaleRoIAlign(levels, output_size=POOL, sampling_ratio=2),
        box_head=TwoMLPHead(out_channels * POOL**2, head_features),
        box_predictor=FastRCNNPredictor(head_features, num_classes),
        **detector,
    )
