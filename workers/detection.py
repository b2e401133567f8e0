"""Detection: boxes, classes, scores and masks of the things in an image."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from models.detectors import Detector, Found, Prepared, Wanted, make_detector
from models.detectors.slicing import Gathered, Matching, combine, gather
from models.loading import parity_images
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.schemas.geometry import Rle
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import DetectionOptions
from visionpipe.schemas.results import DetectionResult
from visionpipe.schemas.results.detection import Detection
from workers.detection_parity import agree, agree_on
from workers.detection_slices import SlicedImage, pieces
from workers.fitting import fitted
from workers.hosted import Answering, HostedModel
from workers.labels import class_ids, label_of
from workers.pace import Pace
from workers.runtime import Answer, Runtime
from workers.work import Work

WARM_SIZE_WH = (640, 480)
"""Size of the blank picture of the warm-up; the network resizes it as it does all."""
QUICK_DETECTIONS = 50
"""So many boxes without masks become a result on the device thread; more are left to the finishing threads."""
VALUES_PER_PROPOSAL = 256 * 7 * 7
"""What a proposed box adds to the input of a micro-batch: the features pooled from it."""


@dataclass
class _Whole:
    """One image that is looked at once."""

    input: Prepared
    wanted: Wanted


class DetectionRuntime(Runtime):
    """Detectors of torchvision and ultralytics; thresholds are each image's own, whatever shares its micro-batch."""

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        if hosted.card.hooks.preprocess or hosted.card.hooks.postprocess:
            raise ModelLoadError(f"Expected no hooks in the card of {hosted.card.name}: detection has no use for them.")
        self._wrapped = self._wrap(hosted.fast)
        self._mode = hosted.card.preprocess.mode
        self.card = hosted.card.model_copy(update={"labels": self._labels()})
        self._pace = Pace(hosted.card.serving.max_batch)
        self._cost_s: float | None = None

    @property
    def detector(self) -> Detector:
        """Around the network that answers."""
        if self._wrapped.network is not self.hosted.fast:
            self._wrapped = self._wrap(self.hosted.fast)
        return self._wrapped

    def _wrap(self, network: nn.Module) -> Detector:
        defaults = self.hosted.card.detection
        wrapped = make_detector(
            network,
            input_size_px=defaults.input_size_px,
            iou_threshold=defaults.iou_threshold,
            nms_free=defaults.nms_free,
        )
        wrapped.compute = Answering(wrapped.core, part="detector", dtype=wrapped.core_dtype)
        return wrapped

    def _labels(self) -> list[str]:
        labels, expected = self.hosted.card.labels or list(self._wrapped.labels), self._wrapped.num_classes
        if labels and expected and len(labels) != expected:
            raise ModelLoadError(
                f"Expected {expected} labels in the card of {self.hosted.card.name}, one for each class of the network "
                f"(torchvision's two-stage and SSD networks count the background as class 0), got {len(labels)}."
            )
        return labels

    def prepare(self, work: Work) -> None:
        """Make the network's input, or cut the image into slices."""
        assert work.image is not None
        options = _options(work)
        wanted = self._wanted(options)
        levels_HWC = self._levels(work.image.image)
        if options.slicing is not None:
            boxes = pieces(work.image.size_wh, options.slicing)
            if len(boxes) > 1:
                # The size is checked here, so that a wrong one fails before any step.
                self.detector.prepare(levels_HWC[:32, :32], options.input_size_px)
                work.prepared = SlicedImage(levels_HWC, wanted, options.input_size_px, boxes)
                work.num_pixels, work.is_long = levels_HWC.size, True
                return
        prepared = self.detector.prepare(levels_HWC, options.input_size_px)
        work.num_pixels = prepared.pixels.numel()
        if options.proposals is not None:
            prepared.proposals_xyxy = self._proposals(options.proposals[work.index], prepared.size_wh)
            work.num_pixels += len(prepared.proposals_xyxy) * VALUES_PER_PROPOSAL
        work.prepared = _Whole(prepared, wanted)
        work.key = (prepared.key, options.proposals is None)

    def _wanted(self, options: DetectionOptions) -> Wanted:
        classes = None if options.classes is None else tuple(class_ids(self.card, options.classes))
        return Wanted(
            score_threshold=options.score_threshold,
            iou_threshold=options.iou_threshold,
            max_detections=options.max_detections,
            classes=classes,
            class_agnostic=options.class_agnostic_nms,
            masks=options.masks,
        )

    def _levels(self, image: Image.Image) -> NDArray[np.uint8]:
        converted = image if image.mode == self._mode else image.convert(self._mode)
        # Copied, since torch wants memory that it may write to.
        return np.array(converted).reshape(image.height, image.width, len(self._mode))

    def _proposals(self, boxes: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> torch.Tensor:
        if not self.detector.takes_proposals:
            raise InvalidRequestError(
                f"Expected no proposals: {self.card.name!r} has no head that scores boxes of a caller. Two-stage "
                "networks have: Faster R-CNN, Mask R-CNN and Keypoint R-CNN, such as 'fasterrcnn_resnet50_fpn'.",
                fields=["proposals"],
            )
        proposed = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        clipped = torch.minimum(proposed.clamp(min=0), proposed.new_tensor(size_wh * 2))
        empty = (clipped[:, 2:] <= clipped[:, :2]).any(1).nonzero().flatten().tolist()
        if empty:
            raise InvalidRequestError(
                f"Expected proposals with an area inside the image of {size_wh[0]}x{size_wh[1]} pixels, got "
                f"{boxes[empty[0]]} at index {empty[0]}{f' and {len(empty) - 1} more' if len(empty) > 1 else ''}.",
                fields=["proposals"],
            )
        return clipped

    def forward(self, batch: Sequence[Work]) -> list[Found]:
        """Detect in images of one input shape."""
        return self.detector.detect([work.prepared.input for work in batch], [work.prepared.wanted for work in batch])

    def results(self, outputs: list[Found], batch: Sequence[Work]) -> list[Answer]:
        """Name what was found; many boxes, and masks, are left to the finishing threads."""
        return [self._answer(work, found) for work, found in zip(batch, outputs, strict=True)]

    def _answer(self, work: Work, found: Found) -> Answer:
        if not found.is_finite:
            return ArithmeticError(f"{self.card.name} gave numbers that are not finite")
        finish = partial(self._finish, work, found)
        return finish if found.masks is not None or len(found) > QUICK_DETECTIONS else finish()

    def _finish(self, work: Work, found: Found) -> DetectionResult:
        proposals = None if found.proposals is None else found.proposals.tolist()
        return self._result(work, gather(found), proposals=proposals)

    def _result(self, work: Work, gathered: Gathered, **more: Any) -> DetectionResult:
        absent = [None] * len(gathered.scores)
        proposals: Sequence[int | None] = more.pop("proposals", None) or absent
        rows = zip(gathered.boxes_xyxy.tolist(), gathered.scores.tolist(), gathered.class_ids.tolist(), strict=True)
        size_wh = work.size_wh
        assert size_wh is not None
        encoded = (mask.rle(size_wh) for mask in gathered.masks)
        masks = [Rle(size_hw=size_hw, counts=counts) for size_hw, counts in encoded]
        detections = [
            Detection(
                box_xyxy=tuple(box),
                class_id=class_id,
                label=label_of(self.card, class_id),
                score=min(max(score, 0.0), 1.0),
                mask=mask,
                proposal=proposal,
            )
            for (box, score, class_id), mask, proposal in zip(rows, masks or absent, proposals, strict=True)
        ]
        return DetectionResult(image_size_wh=size_wh, detections=detections, **more)

    def steps(self, work: Work) -> Generator[Progress, None, Answer]:
        """Look at an image slice by slice, some at a time; stopped, give what was found so far."""
        image: SlicedImage = work.prepared
        began = time.monotonic()
        while not image.done and not work.stopping:
            started, before = time.monotonic(), len(image.parts)
            self._pace.attempt(partial(image.look, self.detector), self.hosted.device.torch_device)
            self._pace.adapt(time.monotonic() - started, len(image.parts) - before)
            yield _progress(image, (time.monotonic() - began) / len(image.parts))
        return partial(self._combine, work, image)

    def estimate(self, work: Work) -> Progress | None:
        """Slices to look at, and the seconds that takes by the cost measured at warm-up."""
        return _progress(work.prepared, self._cost_s)

    def _combine(self, work: Work, image: SlicedImage) -> DetectionResult:
        options = _options(work)
        slicing = options.slicing
        assert slicing is not None
        matching = Matching(
            slicing.merge, slicing.match_metric, slicing.match_threshold, class_agnostic=options.class_agnostic_nms
        )
        combined = combine(image.parts, matching, max_detections=options.max_detections)
        return self._result(work, combined, num_slices=max(len(image.parts), 1), partial=not image.done)

    def warm_up(self, num_images: int) -> None:
        """Run one micro-batch of a blank picture."""
        blank = self._levels(Image.new("RGB", WARM_SIZE_WH, (114, 114, 114)))
        prepared = self.detector.prepare(blank)
        started = time.monotonic()
        self.detector.detect([prepared] * num_images, [Wanted()] * num_images)
        self._cost_s = (time.monotonic() - started) / num_images

    @property
    def answering(self) -> Answering:
        """The whole network of ultralytics', the backbone of torchvision's."""
        answering = self.detector.compute
        assert isinstance(answering, Answering)
        return answering

    def usual_shape(self) -> tuple[int, int, int] | None:
        """That of square pictures, where the card or the network names the longer side."""
        side_px = self.detector.input_size_px
        return None if side_px is None else (len(self._mode), side_px, side_px)

    def checks(self, compiled: Callable[[torch.Tensor], Any], shape_CHW: tuple[int, ...]) -> Iterator[bool]:
        """Compare matched boxes and scores with fp32 on one parity input after the other."""
        exact, quick = self._wrap(self.hosted.master), copy.copy(self.detector)
        answering = Answering(quick.core, dtype=quick.core_dtype)
        answering.use(compiled, shape_CHW)
        quick.compute = answering
        num_found = 0
        for picture in parity_images(self.hosted.entry):
            prepared = exact.prepare(self._levels(picture))
            prepared.pixels = fitted(prepared.pixels, shape_CHW)
            found = agree_on(exact, quick, prepared)
            yield found is not None
            num_found += found or 0
        yield num_found > 0

    def parity(self, precision: str) -> bool:
        """Compare matched boxes and scores with fp32 on the card's parity inputs."""
        exact, quick = self._wrap(self.hosted.master), self._wrap(self.hosted.in_precision(precision))
        pictures = (self._levels(picture) for picture in parity_images(self.hosted.entry))
        return agree(exact, quick, pictures)


def _progress(image: SlicedImage, cost_s: float | None) -> Progress:
    left = len(image.boxes) - len(image.parts)
    note = f"{len(image.parts)} of {len(image.boxes)} slices"
    eta_s = None if cost_s is None else cost_s * left
    return Progress(done=len(image.parts), total=len(image.boxes), note=note, eta_s=eta_s)


def _options(work: Work) -> DetectionOptions:
    assert isinstance(work.request.options, DetectionOptions)
    return work.request.options


RUNTIME = DetectionRuntime
