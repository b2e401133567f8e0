"""torchvision's one-stage networks: RetinaNet (Lin et al. 2017), FCOS (Tian et al. 2019), SSD (Liu et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from models.detectors import torchvision_input
from models.detectors.base import Found, Prepared, Wanted
from models.detectors.precision import fence
from models.detectors.selection import select

UNBOUNDED = 1 << 30
"""Detections per picture that the network itself may give: the request's own limit comes later."""


class OneStage(torchvision_input.TorchvisionDetector):
    """The network's own forward pass, with its thresholds lent to the batch.

    It runs with the lowest score threshold of the batch; leaving out more afterwards gives what a higher threshold
    gives. Where every picture is content with the network's own suppression, that is used; otherwise its candidates
    come unsuppressed and each picture's own suppression is applied to them.

    Args:
        network: A ``RetinaNet``, ``FCOS`` or ``SSD``.
        input_size_px: See ``Detector``.
        iou_threshold: See ``Detector``.
    """

    def __init__(
        self, network: nn.Module, *, input_size_px: int | None = None, iou_threshold: float | None = None
    ) -> None:
        super().__init__(network, input_size_px=input_size_px, iou_threshold=iou_threshold)
        self.num_classes = _num_classes(self.network.head)
        self._assemble = torchvision_input.Assemble(self.network.transform)
        self._finite = torch.ones(0, dtype=torch.bool)
        fence(self.network.backbone)
        fence(self.network.head)

    def own_wanted(self) -> Wanted:
        """The thresholds with which the network comes."""
        return Wanted(self.network.score_thresh, self.iou_threshold, self.network.detections_per_img)

    @torch.inference_mode()
    def detect(self, batch: Sequence[Prepared], wanted: Sequence[Wanted]) -> list[Found]:
        """Detect; see ``Detector``."""
        device = self.device()
        own = all(self._is_content(wants) for wants in wanted)
        lowest = math.nextafter(min(wants.score_threshold for wants in wanted), -1)
        with self._lent(score_thresh=lowest, detections_per_img=UNBOUNDED, **({} if own else {"nms_thresh": 1.0})):
            outputs = self.network([prepared.pixels.to(device) for prepared in batch])
        parts = zip(batch, wanted, outputs, self._finite.tolist(), strict=True)
        return [self._choose(*part, suppressed=own) for part in parts]

    def _is_content(self, wants: Wanted) -> bool:
        return not wants.class_agnostic and self._iou(wants) == self.network.nms_thresh

    def _iou(self, wants: Wanted) -> float:
        given = (wants.iou_threshold, self.iou_threshold, float(self.network.nms_thresh))
        return next(value for value in given if value is not None)

    def _choose(
        self, prepared: Prepared, wants: Wanted, output: dict[str, Any], is_finite: bool, *, suppressed: bool
    ) -> Found:
        boxes, scores, classes = output["boxes"], output["scores"], output["labels"]
        keep = select(boxes, scores, classes, wants, iou_threshold=None if suppressed else self._iou(wants))
        boxes = prepared.to_picture(boxes[keep].float())
        return Found(boxes.cpu(), scores[keep].float().cpu(), classes[keep].cpu(), is_finite=is_finite)

    @contextmanager
    def _lent(self, **thresholds: float) -> Iterator[None]:
        """Change the network's attributes for one forward pass; one thread at a time uses a detector."""
        changed = {"transform": self._assemble, "backbone": self.compute, **thresholds}
        kept = {name: getattr(self.network, name) for name in changed}
        watch = self.network.head.register_forward_hook(self._note_finite)
        try:
            for name, value in changed.items():
                setattr(self.network, name, value)
            yield
        finally:
            watch.remove()
            for name, value in kept.items():
                setattr(self.network, name, value)

    def _note_finite(self, _: nn.Module, __: Any, outputs: dict[str, torch.Tensor]) -> None:
        flags = [torch.isfinite(output).flatten(1).all(1) for output in outputs.values()]
        self._finite = torch.stack(flags).all(0)


def _num_classes(head: Any) -> int:
    part = head.classification_head
    return int(getattr(part, "num_classes", 0) or part.num_columns)
