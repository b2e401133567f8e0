"""torchvision's two-stage networks: Faster R-CNN, Mask R-CNN, Keypoint R-CNN, and whatever is built of their classes.

Faster R-CNN (Ren et al. 2015) proposes boxes and then scores and refines each. The second stage alone, on boxes that a
caller proposes, is Fast R-CNN (Girshick 2015). Suffixes: R regions of all pictures, P of one, K classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.ops import boxes as box_ops

from models.detectors import torchvision_input
from models.detectors.base import Found, Prepared, Wanted
from models.detectors.masks import BoxMasks
from models.detectors.precision import fence
from models.detectors.selection import select

MAX_REGIONS = 8192
"""Regions whose features are pooled at once: 400 MB of 256x7x7 float32."""
MIN_SIDE_PX = 1e-2
"""Refined boxes with a smaller side are none; torchvision's own constant."""


class TwoStage(torchvision_input.TorchvisionDetector):
    """The stages called one after another, so that each picture has its own thresholds and masks only for what stays.

    Args:
        network: A ``GeneralizedRCNN``.
        input_size_px: See ``Detector``.
        iou_threshold: See ``Detector``.
    """

    takes_proposals = True

    def __init__(
        self, network: GeneralizedRCNN, *, input_size_px: int | None = None, iou_threshold: float | None = None
    ) -> None:
        super().__init__(network, input_size_px=input_size_px, iou_threshold=iou_threshold)
        heads: Any = network.roi_heads
        self.heads = heads
        self.has_masks = bool(heads.has_mask())
        self.num_classes = _num_classes(heads.box_predictor)
        self._assemble = torchvision_input.Assemble(network.transform)
        parts = (heads.box_head, heads.box_predictor, heads.mask_head, heads.mask_predictor)
        for part in (network.backbone, network.rpn.head, *parts):
            if part is not None:
                fence(part)

    def own_wanted(self) -> Wanted:
        """The thresholds with which the network comes."""
        return Wanted(self.heads.score_thresh, self.iou_threshold, self.heads.detections_per_img)

    @torch.inference_mode()
    def detect(self, batch: Sequence[Prepared], wanted: Sequence[Wanted]) -> list[Found]:
        """Detect, or score the proposals that the pictures bring; all or none of a batch bring some."""
        device = self.device()
        images, _ = self._assemble([prepared.pixels.to(device) for prepared in batch])
        features = self.compute(images.tensors)
        if isinstance(features, Tensor):
            features = OrderedDict([("0", features)])
        regions = self._regions(batch, images, features)
        logits_RK, deltas_RX = self._score(features, regions, images)
        found = self._choose(logits_RK, deltas_RX, regions, images, batch, wanted)
        masks = self._masks(features, found, images, wanted)
        return [
            self._finish(prepared, chosen, mask) for prepared, chosen, mask in zip(batch, found, masks, strict=True)
        ]

    def _regions(self, batch: Sequence[Prepared], images: ImageList, features: dict[str, Tensor]) -> list[Tensor]:
        if batch[0].proposals_xyxy is None:
            proposed, _ = self.network.rpn(images, features)
            return list(proposed)
        return [
            (prepared.proposals_xyxy * torch.tensor(prepared.scale_xy * 2)).to(images.tensors.device)
            for prepared in batch
            if prepared.proposals_xyxy is not None
        ]

    def _score(self, features: dict[str, Tensor], regions: list[Tensor], images: ImageList) -> tuple[Tensor, Tensor]:
        scored = []
        for part in _portions(regions):
            pooled = self.heads.box_roi_pool(features, part, images.image_sizes)
            scored.append(self.heads.box_predictor(self.heads.box_head(pooled)))
        return torch.cat([logits for logits, _ in scored]), torch.cat([deltas for _, deltas in scored])

    def _choose(
        self,
        logits_RK: Tensor,
        deltas_RX: Tensor,
        regions: list[Tensor],
        images: ImageList,
        batch: Sequence[Prepared],
        wanted: Sequence[Wanted],
    ) -> list[Found]:
        boxes_RK4 = self.heads.box_coder.decode(deltas_RX, regions)
        scores_RK = logits_RK.softmax(-1)
        per_picture = [len(boxes) for boxes in regions]
        parts = zip(
            torch.split(boxes_RK4, per_picture),
            torch.split(scores_RK, per_picture),
            images.image_sizes,
            batch,
            wanted,
            strict=True,
        )
        return [
            self._choose_one(box_ops.clip_boxes_to_image(boxes_PK4, size_hw), scores_PK, wants, prepared)
            for boxes_PK4, scores_PK, size_hw, prepared, wants in parts
        ]

    def _choose_one(self, boxes_PK4: Tensor, scores_PK: Tensor, wants: Wanted, prepared: Prepared) -> Found:
        """Every class of every region is a candidate of its own, except the background."""
        regions, classes = torch.where(scores_PK[:, 1:] >= wants.score_threshold)
        classes = classes + 1
        boxes, scores = boxes_PK4[regions, classes], scores_PK[regions, classes]
        large = box_ops.remove_small_boxes(boxes, min_size=MIN_SIDE_PX)
        iou = next(
            given for given in (wants.iou_threshold, self.iou_threshold, self.heads.nms_thresh) if given is not None
        )
        keep = large[select(boxes[large], scores[large], classes[large], wants, iou_threshold=iou)]
        return Found(
            boxes[keep],
            scores[keep],
            classes[keep],
            proposals=regions[keep].cpu() if prepared.proposals_xyxy is not None else None,
            is_finite=bool(torch.isfinite(scores_PK).all() and torch.isfinite(boxes_PK4).all()),
        )

    def _masks(
        self, features: dict[str, Tensor], found: Sequence[Found], images: ImageList, wanted: Sequence[Wanted]
    ) -> list[Tensor | None]:
        with_masks = [index for index, wants in enumerate(wanted) if wants.masks and self.has_masks]
        if not sum(len(found[index]) for index in with_masks):
            return [None] * len(found)
        nothing = found[0].boxes_xyxy[:0]
        boxes = [part.boxes_xyxy if index in with_masks else nothing for index, part in enumerate(found)]
        pooled = (self.heads.mask_roi_pool(features, part, images.image_sizes) for part in _portions(boxes))
        logits = torch.cat([self.heads.mask_predictor(self.heads.mask_head(part)) for part in pooled])
        classes = [part.class_ids[: len(box)] for part, box in zip(found, boxes, strict=True)]
        masks = maskrcnn_inference(logits, classes)
        return [mask if index in with_masks else None for index, mask in enumerate(masks)]

    def _finish(self, prepared: Prepared, chosen: Found, masks_N1HW: Tensor | None) -> Found:
        boxes = prepared.to_picture(chosen.boxes_xyxy.float()).cpu()
        masks = None if masks_N1HW is None else BoxMasks(masks_N1HW.float().cpu(), boxes, prepared.size_wh)
        return Found(
            boxes, chosen.scores.float().cpu(), chosen.class_ids.cpu(), chosen.proposals, masks, chosen.is_finite
        )


def _portions(boxes: list[Tensor]) -> Iterator[list[Tensor]]:
    """Boxes of a batch in portions whose pooled features fit into memory, in order; nearly always it is one."""
    if sum(map(len, boxes)) <= MAX_REGIONS:
        yield boxes
        return
    for index, of_one in enumerate(boxes):
        nothing = [box[:0] for box in boxes]
        for part in torch.split(of_one, MAX_REGIONS):
            yield [*nothing[:index], part, *nothing[index + 1 :]]


def _num_classes(predictor: nn.Module) -> int:
    layer = getattr(predictor, "cls_score", None)
    return int(layer.out_features) if isinstance(layer, nn.Linear) else 0
