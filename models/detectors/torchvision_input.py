"""torchvision's own resizing and normalisation, done in threads before the device is needed.

Suffixes: N batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from models.detectors.base import Detector, Prepared
from models.errors import UnsupportedOption


def resized(transform: GeneralizedRCNNTransform, input_size_px: int | None) -> GeneralizedRCNNTransform:
    """Give the transform for another size of the input.

    Args:
        transform: The network's own.
        input_size_px: Longer side of the input; ``None`` means the network's own rule.

    Raises:
        UnsupportedOption: The network sees one fixed size only, and this is another.
    """
    if input_size_px is None:
        return transform
    if transform.fixed_size is not None:
        if max(transform.fixed_size) == input_size_px:
            return transform
        raise UnsupportedOption(
            f"Expected input_size_px to be {max(transform.fixed_size)} or unset, got {input_size_px}: this network "
            "sees that size only. Networks without a fixed size (Faster R-CNN, RetinaNet, FCOS, YOLO) take others."
        )
    return GeneralizedRCNNTransform(
        input_size_px, input_size_px, transform.image_mean, transform.image_std, transform.size_divisible
    ).eval()


@torch.inference_mode()
def prepare(transform: GeneralizedRCNNTransform, levels_HWC: NDArray[Any]) -> Prepared:
    """Normalise and resize one picture with torchvision's own code.

    Args:
        transform: The network's, or a ``resized`` one.
        levels_HWC: uint8 (H, W, C).
    """
    picture_CHW = torch.from_numpy(levels_HWC).permute(2, 0, 1).to(torch.float32).div_(255)
    pixels_CHW, _ = transform.resize(transform.normalize(picture_CHW))
    height, width = levels_HWC.shape[:2]
    size_hw = (int(pixels_CHW.shape[1]), int(pixels_CHW.shape[2]))
    return Prepared(
        pixels_CHW,
        (width, height),
        (size_hw[1] / width, size_hw[0] / height),
        key=padded_hw(size_hw, transform.size_divisible),
    )


def padded_hw(size_hw: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Height and width of the tensor that holds an input: only pictures with equal ones share a batch, so that no
    picture's padding, and with it no answer, depends on its neighbours."""
    return math.ceil(size_hw[0] / multiple) * multiple, math.ceil(size_hw[1] / multiple) * multiple


class Assemble(nn.Module):
    """Takes the place of a network's transform for pictures that went through it before: puts them into one batch."""

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        self._multiple = transform.size_divisible

    def forward(self, images: Sequence[Tensor], targets: None = None) -> tuple[ImageList, None]:
        """Pad inputs (C, H, W) of one padded size at the right and bottom, and stack them."""
        sizes_hw = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = padded_hw(sizes_hw[0], self._multiple)
        batch_NCHW = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for padded, image in zip(batch_NCHW, images, strict=True):
            padded[:, : image.shape[1], : image.shape[2]].copy_(image)
        return ImageList(batch_NCHW.contiguous(memory_format=torch.channels_last), sizes_hw), targets

    def postprocess(self, result: list[dict[str, Tensor]], *_: object) -> list[dict[str, Tensor]]:
        """Leave boxes in pixels of the input."""
        return result


class TorchvisionDetector(Detector):
    """What torchvision's families share: the backbone is what computes, and the network's own transform prepares."""

    @property
    def core(self) -> nn.Module:
        """The backbone; what chooses boxes depends on what it found."""
        backbone: nn.Module = self.network.backbone
        return backbone

    @property
    def core_dtype(self) -> torch.dtype:
        """What the backbone is given whatever its weights are kept in."""
        return torch.float32

    def prepare(self, levels_HWC: NDArray[Any], input_size_px: int | None = None) -> Prepared:
        """Normalise and resize one picture; see ``Detector``."""
        return prepare(resized(self.network.transform, input_size_px or self.input_size_px), levels_HWC)
