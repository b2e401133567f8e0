"""The yardsticks of segmentation and detection: what one would write for one folder of pictures of one size.

Shape suffixes: N images, C channels, K classes, A anchors, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from models import instances
from models.detectors import Prepared, make_detector
from models.preprocess import Preprocess
from tests.bench.ideal import Ideal, read
from workers.encoding import png
from workers.hosted import Answering

SCORE_THRESHOLD = 0.25
MAX_DETECTIONS = 300


class Segment(Ideal):
    """Label maps as PNG files, areas and objects; for pictures of one tile whose sides need no padding."""

    finishers = (1, 2)

    def __init__(self, model: str, models: Path | None, precision: str, *, packages: Path) -> None:
        super().__init__(model, models, precision, packages=packages)
        self._preprocess = Preprocess(self.hosted.card.preprocess)

    def prepare(self, path: Path) -> Tensor:
        """Levels, uint8 (C, H, W)."""
        image = read(path).image
        mode = self.hosted.card.preprocess.mode
        levels = np.array(image if image.mode == mode else image.convert(mode))
        return torch.from_numpy(levels.reshape(image.height, image.width, len(mode))).permute(2, 0, 1)

    def compute(self, batch: Sequence[Tensor]) -> Sequence[Any]:
        """Each pixel's class and its probability in 255ths."""
        inputs_NCHW = self._preprocess.normalise(torch.stack(list(batch)))
        logits_NKHW = self.answering(self.hosted.to_input(inputs_NCHW))
        scores_NHW, classes_NHW = logits_NKHW.float().softmax(dim=1).max(dim=1)
        levels_NHW = scores_NHW.mul_(255).round_().to(torch.uint8).numpy()
        return list(zip(classes_NHW.to(torch.uint8).numpy(), levels_NHW, strict=True))

    def finish(self, left: Any, index: int, out: Path) -> dict[str, Any]:
        """Separate and measure the objects, and write the label map."""
        classes_HW, scores_HW = left
        card = self.hosted.card
        _, objects = instances.separate(
            classes_HW, background=card.segmentation.background, border=card.segmentation.border, scores_HW=scores_HW
        )
        # As a run does: one folder for the maps of many runs.
        folder = out.with_suffix("")
        folder.mkdir(exist_ok=True)
        (folder / f"{index}.png").write_bytes(png(classes_HW, compress_level=1))
        areas = instances.areas(classes_HW, len(card.labels)).tolist()
        return {
            "classes": dict(zip(card.labels, areas, strict=True)),
            "instances": [{**vars(one), "label": card.labels[one.class_id]} for one in objects],
        }


class Detect(Ideal):
    """Boxes of a YOLO with suppression, for pictures that are letterboxed to one shape."""

    def _answering(self) -> Answering:
        defaults = self.hosted.card.detection
        self._detector = make_detector(
            self.hosted.fast, input_size_px=defaults.input_size_px, iou_threshold=defaults.iou_threshold
        )
        return Answering(self._detector.core, part="detector", dtype=self._detector.core_dtype)

    def prepare(self, path: Path) -> Prepared:
        """Letterbox."""
        image = read(path).image
        return self._detector.prepare(np.array(image if image.mode == "RGB" else image.convert("RGB")))

    def compute(self, batch: Sequence[Prepared]) -> Sequence[Any]:
        """Boxes xyxy in pixels of the picture, scores and classes.

        Suppressed picture by picture: torchvision takes many boxes class by class, which is slower for all at once.
        """
        pixels_NCHW = torch.stack([prepared.pixels for prepared in batch])
        inputs_NCHW = pixels_NCHW.to(self.answering.dtype, memory_format=torch.channels_last).div_(255)
        decoded_NXA = self.answering(inputs_NCHW).float()
        scores_NA, classes_NA = decoded_NXA[:, 4:].max(dim=1)
        iou = self._detector.iou_threshold
        assert iou is not None
        rows = []
        for index, prepared in enumerate(batch):
            anchors = torch.where(scores_NA[index] >= SCORE_THRESHOLD)[0]
            boxes = box_convert(decoded_NXA[index, :4, anchors].T, "cxcywh", "xyxy")
            scores, classes = scores_NA[index, anchors], classes_NA[index, anchors]
            keep = batched_nms(boxes, scores, classes, iou)[:MAX_DETECTIONS]
            rows.append([prepared.to_picture(boxes[keep]).tolist(), scores[keep].tolist(), classes[keep].tolist()])
        return rows

    def finish(self, left: Any, index: int, out: Path) -> dict[str, Any]:
        """Name the classes."""
        boxes, scores, classes = left
        labels = self.hosted.card.labels
        rows = zip(boxes, scores, classes, strict=True)
        return {"detections": [{"box_xyxy": box, "score": score, "label": labels[k]} for box, score, k in rows]}
