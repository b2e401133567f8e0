"""What every family of detection networks offers: pixels in, boxes in pixels of the same picture out.

A detector wraps a network without changing what it is. Thresholds belong to the request, not to the network: each
picture of a batch brings its own ``Wanted``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.detectors.masks import SoftMasks


@dataclass(frozen=True)
class Wanted:
    """What is wanted of one picture.

    Attributes:
        score_threshold: Detections of a lower score are left out.
        iou_threshold: Of two boxes that overlap more the weaker is dropped; ``None`` means the network's own.
        max_detections: At most so many, best first.
        classes: Classes to report; ``None`` means all.
        class_agnostic: Whether boxes of different classes suppress one another.
        masks: Whether networks that segment instances give masks.
    """

    score_threshold: float = 0.25
    iou_threshold: float | None = None
    max_detections: int = 300
    classes: tuple[int, ...] | None = None
    class_agnostic: bool = False
    masks: bool = True


@dataclass
class Prepared:
    """One picture as a network's input.

    Attributes:
        pixels: The input, (C, H, W).
        size_wh: Size of the picture.
        scale_xy: Input pixels per pixel of the picture.
        offset_xy: Where the picture's left top corner lies in the input.
        proposals_xyxy: Boxes to be scored instead of looking for boxes, (P, 4) in pixels of the picture.
        key: Inputs with equal keys may share a batch.
    """

    pixels: Tensor
    size_wh: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[int, int] = (0, 0)
    proposals_xyxy: Tensor | None = None
    key: Hashable = None

    def to_picture(self, boxes_xyxy: Tensor) -> Tensor:
        """Map boxes (N, 4) of the input to the picture, clipped to it."""
        shift = boxes_xyxy.new_tensor(self.offset_xy * 2)
        scale = boxes_xyxy.new_tensor(self.scale_xy * 2)
        limit = boxes_xyxy.new_tensor(self.size_wh * 2)
        return torch.minimum(((boxes_xyxy - shift) / scale).clamp(min=0), limit)


@dataclass
class Found:
    """The detections in one picture, best first, on the CPU.

    Attributes:
        boxes_xyxy: float32 (N, 4), in pixels of the picture, within it.
        scores: float32 (N,), in [0, 1].
        class_ids: int64 (N,).
        proposals: int64 (N,), index of the proposal that each was refined from; ``None`` unless boxes were proposed.
        masks: From networks that segment instances, if wanted.
        is_finite: Whether everything the network gave for this picture is a number.
    """

    boxes_xyxy: Tensor = field(default_factory=lambda: torch.zeros(0, 4))
    scores: Tensor = field(default_factory=lambda: torch.zeros(0))
    class_ids: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    proposals: Tensor | None = None
    masks: SoftMasks | None = None
    is_finite: bool = True

    def __len__(self) -> int:
        return len(self.scores)


class Detector(ABC):
    """A detection network with its geometry.

    Args:
        network: In eval mode, on its device, in any precision.
        input_size_px: Longer side of the input unless a request says otherwise; ``None`` means the network's own.
        iou_threshold: Overlap beyond which the weaker of two boxes is dropped unless a request says otherwise;
            ``None`` means the network's own.
    """

    num_classes: int
    """How many class indices the network may give, background included where it has one."""
    has_masks: bool = False
    """Whether it segments instances."""
    takes_proposals: bool = False
    """Whether it can score boxes that a caller proposes."""
    labels: Sequence[str] = ()
    """The network's own names of its classes, where it brings them."""

    def __init__(
        self, network: nn.Module, *, input_size_px: int | None = None, iou_threshold: float | None = None
    ) -> None:
        self.network: Any = network
        self._compute: nn.Module | None = None
        self.input_size_px = input_size_px
        self.iou_threshold = iou_threshold

    @abstractmethod
    def prepare(self, levels_HWC: NDArray[Any], input_size_px: int | None = None) -> Prepared:
        """Make one picture the network's input; safe in threads.

        Args:
            levels_HWC: uint8 (H, W, C).
            input_size_px: Longer side of the input; ``None`` means the detector's own.

        Raises:
            UnsupportedOption: The network sees one size only, and this is another.
        """

    @abstractmethod
    def detect(self, batch: Sequence[Prepared], wanted: Sequence[Wanted]) -> list[Found]:
        """Detect in pictures whose ``key`` is equal; each gets what it wants, whatever its neighbours want."""

    @property
    @abstractmethod
    def core(self) -> nn.Module:
        """The part of the network that takes its inputs (N, C, H, W), and most of its time; it can be exported."""

    @property
    @abstractmethod
    def core_dtype(self) -> torch.dtype:
        """Of what ``core`` takes."""

    @property
    def compute(self) -> nn.Module:
        """What computes in place of ``core``: that itself, unless something faster that gives the same was set."""
        if self._compute is None:
            self._compute = self.core
        return self._compute

    @compute.setter
    def compute(self, faster: nn.Module) -> None:
        self._compute = faster

    def own_wanted(self) -> Wanted:
        """The thresholds with which the network comes."""
        return Wanted(iou_threshold=self.iou_threshold)

    def device(self) -> torch.device:
        """Where the network computes."""
        found: torch.device = next(iter(self.network.parameters())).device
        return found
