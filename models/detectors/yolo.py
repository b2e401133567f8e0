"""ultralytics' networks: YOLO (Redmon et al. 2016 and successors) with detection or segmentation heads, and RT-DETR.

Some give boxes that need suppression (YOLO v3 to v12), others boxes that do not: heads trained one-to-one (v10, 26) and
transformers (RT-DETR, Zhao et al. 2023). Suffixes: N batch, A anchors, K classes, M mask coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_convert

from models.detectors.base import Detector, Found, Prepared, Wanted
from models.detectors.letterbox import letterbox
from models.detectors.masks import PrototypeMasks
from models.detectors.precision import cast
from models.detectors.selection import MAX_CANDIDATES, select
from models.errors import ModelLoadFailed

SIDE_PX = 640
"""Longer side of the input unless the card says otherwise; ultralytics' own."""
IOU_THRESHOLD = 0.7
"""For suppression unless the card says otherwise; that of ultralytics' ``predict``."""


class Yolo(Detector):
    """The network's decoded output; thresholds and suppression are ours.

    Args:
        network: An ultralytics ``DetectionModel`` or ``SegmentationModel``.
        input_size_px: See ``Detector``.
        iou_threshold: See ``Detector``.
        nms_free: Use the head that was trained one-to-one. Unset, a network is used as ultralytics uses it: with the
            other head and suppression, where it has both.

    Raises:
        ModelLoadFailed: Its head finds no upright boxes (it classifies, finds poses or turned boxes), or it has no head
            of the kind that is asked for.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        input_size_px: int | None = None,
        iou_threshold: float | None = None,
        nms_free: bool = False,
    ) -> None:
        super().__init__(network, input_size_px=input_size_px or SIDE_PX, iou_threshold=iou_threshold)
        head: Any = self.network.model[-1]
        kind = _kind(head)
        if nms_free:
            _choose_one_to_one(head)
        self.has_masks = kind == "Segment"
        self.num_classes = int(head.nc)
        self._is_transformer = kind == "RTDETRDecoder"
        self.needs_suppression = not (self._is_transformer or getattr(head, "end2end", False))
        self.labels = _names(getattr(network, "names", None), self.num_classes)
        self._stride = max(int(self.network.stride.max()), 32)
        # The head limits its own output; the request's limit comes later.
        head.max_det = MAX_CANDIDATES
        # Batch normalisation goes into the convolutions, and the head that is not used goes.
        self.network.fuse(verbose=False)
        self._dtype: torch.dtype = next(self.network.parameters()).dtype
        if self._dtype != torch.float32:
            # It decodes boxes, whose coordinates bfloat16 would round by pixels.
            head.float()
            head.register_forward_pre_hook(lambda _, arguments: cast(arguments, torch.float32))

    @property
    def core(self) -> nn.Module:
        """The whole network, without the outputs that only training reads."""
        return _Decoded(self.network)

    @property
    def core_dtype(self) -> torch.dtype:
        """That of the weights."""
        return self._dtype

    def own_wanted(self) -> Wanted:
        """The thresholds of ultralytics' ``predict``."""
        return Wanted(0.25, self.iou_threshold, 300)

    def prepare(self, levels_HWC: NDArray[Any], input_size_px: int | None = None) -> Prepared:
        """Letterbox one picture; see ``Detector``."""
        side_px = input_size_px or self.input_size_px or SIDE_PX
        return letterbox(levels_HWC, side_px=side_px, stride=self._stride, stretch=self._is_transformer)

    @torch.inference_mode()
    def detect(self, batch: Sequence[Prepared], wanted: Sequence[Wanted]) -> list[Found]:
        """Detect; see ``Detector``."""
        pixels_NCHW = torch.stack([prepared.pixels for prepared in batch]).to(self.device())
        inputs_NCHW = pixels_NCHW.to(self._dtype, memory_format=torch.channels_last).div_(255)
        decoded, prototypes = self.compute(inputs_NCHW), None
        if self.has_masks:
            decoded, prototypes = decoded
        return [
            self._choose(decoded[index], None if prototypes is None else prototypes[index], prepared, wants)
            for index, (prepared, wants) in enumerate(zip(batch, wanted, strict=True))
        ]

    def _choose(self, decoded: Tensor, prototypes_MHW: Tensor | None, prepared: Prepared, wants: Wanted) -> Found:
        boxes, scores, classes, coefficients_AM = self._candidates(decoded.float(), prepared)
        # Untrained one-to-one heads give boxes that end before they begin.
        scores = scores.where((boxes[:, 2:] >= boxes[:, :2]).all(1), -1)
        keep = select(boxes, scores, classes, wants, iou_threshold=self._iou(wants))
        chosen = prepared.to_picture(boxes[keep]).cpu()
        masks = None
        if prototypes_MHW is not None and wants.masks:
            logits_NHW = torch.einsum("nm,mhw->nhw", coefficients_AM[keep], prototypes_MHW.float()).cpu()
            masks = _place(logits_NHW, chosen, prepared)
        is_finite = bool(torch.isfinite(decoded).all())
        return Found(chosen, scores[keep].cpu(), classes[keep].cpu(), masks=masks, is_finite=is_finite)

    def _candidates(self, decoded: Tensor, prepared: Prepared) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes xyxy in pixels of the input, scores, classes, mask coefficients; one class per anchor."""
        if not self.needs_suppression:
            boxes, scores, classes, coefficients = torch.split(decoded, [4, 1, 1, decoded.shape[1] - 6], dim=1)
            if self._is_transformer:
                sides_wh = boxes.new_tensor(prepared.pixels.shape[:0:-1])
                boxes = box_convert(boxes, "cxcywh", "xyxy") * sides_wh.repeat(2)
            return boxes, scores[:, 0], classes[:, 0].long(), coefficients
        boxes_4A, scores_KA, coefficients_MA = torch.split(
            decoded, [4, self.num_classes, decoded.shape[0] - 4 - self.num_classes]
        )
        scores_A, classes_A = scores_KA.max(0)
        return box_convert(boxes_4A.T, "cxcywh", "xyxy"), scores_A, classes_A, coefficients_MA.T

    def _iou(self, wants: Wanted) -> float | None:
        given = wants.iou_threshold if wants.iou_threshold is not None else self.iou_threshold
        if given is None and not self.needs_suppression:
            return IOU_THRESHOLD if wants.class_agnostic else None
        return IOU_THRESHOLD if given is None else given


class _Decoded(nn.Module):
    """What a network decoded: boxes and scores, with prototypes of masks where it has some."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_NCHW: Tensor) -> Any:
        if torch.compiler.is_exporting():
            # Otherwise the anchors it keeps tie it to the batch that it saw last.
            self.network.model[-1].dynamic = True
        return self.network(x_NCHW)[0]


def _kind(head: Any) -> str:
    """The nearest class of ultralytics that says what a head gives."""
    for cls in type(head).__mro__:
        if cls.__name__ in ("Segment", "Detect", "RTDETRDecoder"):
            return cls.__name__
        if cls.__name__ in ("OBB", "Pose"):
            break
    raise ModelLoadFailed(
        f"Expected a network of ultralytics with a Detect, Segment or RTDETRDecoder head, got {type(head).__name__}. "
        "Networks that classify, find poses or turned boxes are not hosted as detectors."
    )


def _choose_one_to_one(head: Any) -> None:
    if getattr(head, "one2one_cv2", None) is None:
        raise ModelLoadFailed(
            f"Expected a network with a head that was trained one-to-one (YOLO v10 or 26), got {type(head).__name__} "
            "with no head that needs no suppression. Take nms_free out of the card."
        )
    head.end2end = True


def _names(names: Any, num_classes: int) -> list[str]:
    """The classes' names in order; none where the network has only numbers for them."""
    if isinstance(names, dict):
        names = [names.get(index) for index in range(num_classes)]
    if not names or [str(name) for name in names] == [str(index) for index in range(num_classes)]:
        return []
    return [str(name) for name in names]


def _place(logits_NHW: Tensor, boxes_xyxy: Tensor, prepared: Prepared) -> PrototypeMasks:
    """Say where the prototypes' grid lies in the picture."""
    cells = logits_NHW.shape[2] / prepared.pixels.shape[2], logits_NHW.shape[1] / prepared.pixels.shape[1]
    return PrototypeMasks(
        logits_NHW,
        boxes_xyxy,
        (prepared.scale_xy[0] * cells[0], prepared.scale_xy[1] * cells[1]),
        (prepared.offset_xy[0] * cells[0], prepared.offset_xy[1] * cells[1]),
        prepared.size_wh,
    )
