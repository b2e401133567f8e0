"""From probabilities to a segmentation's maps and objects, in pixels of the original image.

Shape suffixes: N images, K classes, H height, W width.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import instances
from models.cards import Card
from models.tiling import Band, Resampler
from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.geometry import Rle
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.requests import SegmentationOptions
from visionpipe.schemas.results import SegmentationResult, SegmentedClass, SegmentedInstance
from workers.encoding import png
from workers.labels import label_of
from workers.work import Work

MAX_PROBABILITIES_BYTES = 2**28
"""Largest array of probabilities that is kept."""
NOT_FINITE = "the network gave logits that are not finite"
MAX_NUMBERED = 2**16 - 1
"""Objects that a picture of 16 bits can number."""

MAX_PLAIN_CLASSES = 255
"""With so many classes the best one's probability never rounds to 0 of 255."""


def best(probabilities_NKHW: Tensor) -> Tensor:
    """Give each pixel's best class, and its probability in 255ths: uint8 (N, 2, H, W).

    The latter is 0 where the probabilities are no numbers, and nowhere else.

    Args:
        probabilities_NKHW: Of at most ``MAX_PLAIN_CLASSES`` classes.
    """
    scores_NHW, classes_NHW = probabilities_NKHW.max(dim=1)
    levels_NHW = scores_NHW.mul_(255).round_().nan_to_num_(0)
    return torch.stack([classes_NHW.to(torch.uint8), levels_NHW.to(torch.uint8)], dim=1)


class Maps:
    """Takes rows of probabilities as they come, and keeps of each pixel its class and how probable that is.

    Args:
        from_hw: Height and width of what comes.
        size_wh: Width and height of the original image.
        num_classes: K.
        background: The class of pixels that no class is probable enough for, or that never come.
        options: The request's.

    Raises:
        InvalidRequestError: The probabilities asked for would be too large to keep.
    """

    def __init__(
        self,
        from_hw: tuple[int, int],
        size_wh: tuple[int, int],
        num_classes: int,
        *,
        background: int,
        options: SegmentationOptions,
    ) -> None:
        width, height = size_wh
        self.num_classes = num_classes
        self.background = background
        self.classes_HW = np.full((height, width), background, dtype=np.uint8 if num_classes <= 256 else np.uint16)
        self.scores_HW = np.zeros((height, width), dtype=np.uint8)
        self.probabilities_KHW: NDArray[np.float16] | None = None
        if options.probabilities:
            check_probabilities(size_wh, num_classes)
            self.probabilities_KHW = np.zeros((num_classes, height, width), dtype=np.float16)
        self._threshold = options.score_threshold
        self._resampler = Resampler(from_hw, (height, width))

    def take(self, classes_HW: NDArray[np.uint8], scores_HW: NDArray[np.uint8]) -> None:
        """Take all rows at once, as ``best`` gives them.

        Raises:
            ArithmeticError: Some come of numbers that are none.
        """
        if not scores_HW.all():
            raise ArithmeticError(NOT_FINITE)
        self.classes_HW, self.scores_HW = np.ascontiguousarray(classes_HW), np.ascontiguousarray(scores_HW)

    def add(self, band: Band) -> None:
        """Take the next rows.

        Raises:
            ArithmeticError: They hold numbers that are none.
        """
        if not bool(np.isfinite(band.values).all()):
            raise ArithmeticError(NOT_FINITE)
        ready = self._resampler.add(band)
        if ready is None:
            return
        rows = slice(ready.top, ready.top + ready.values.shape[1])
        best_HW, score_HW = ready.values.argmax(axis=0), ready.values.max(axis=0)
        if self._threshold > 0:
            best_HW[score_HW < self._threshold] = self.background
        self.classes_HW[rows] = best_HW
        self.scores_HW[rows] = np.rint(255 * np.clip(score_HW, 0, 1))
        if self.probabilities_KHW is not None:
            self.probabilities_KHW[:, rows] = ready.values


def check_probabilities(size_wh: tuple[int, int], num_classes: int) -> None:
    """Refuse probabilities that would be too large to keep.

    Raises:
        InvalidRequestError: They would.
    """
    size = size_wh[0] * size_wh[1] * num_classes * 2
    if size > MAX_PROBABILITIES_BYTES:
        raise InvalidRequestError(
            f"Expected probabilities of at most {MAX_PROBABILITIES_BYTES} bytes, but {num_classes} classes of "
            f"{size_wh[0]}x{size_wh[1]} pixels take {size}. Ask without probabilities, or for a smaller image.",
            fields=["probabilities"],
        )


def finished(
    work: Work,
    maps: Maps,
    card: Card,
    options: SegmentationOptions,
    *,
    wanted: frozenset[int] | None,
    num_tiles: int = 1,
    partial: bool = False,
) -> SegmentationResult:
    """Measure and keep what the maps hold.

    Args:
        work: Whose result it is.
        maps: Complete, unless partial.
        card: The model's.
        options: The request's.
        wanted: The classes to report; ``None`` for all.
        num_tiles: Pieces the image was taken in.
        partial: Whether work was stopped, so that rows at the bottom are missing.

    Raises:
        InvalidRequestError: There are more objects than a picture can number.
    """
    assert work.size_wh is not None
    border = card.segmentation.border
    found: list[SegmentedInstance] | None = None
    numbered: ArtifactRef | None = None
    if options.instances or options.instance_map:
        numbers_HW, objects = instances.separate(
            _only(maps, wanted, also=border),
            background=maps.background,
            border=border,
            scores_HW=maps.scores_HW,
            min_area_px=options.min_area_px,
        )
        if options.instance_map:
            numbered = _keep_numbers(work, numbers_HW, len(objects))
        if options.instances:
            found = [_instance(card, numbers_HW, one, rle=options.rle) for one in objects]
    classes_HW = _only(maps, wanted)
    return SegmentationResult(
        image_size_wh=work.size_wh,
        partial=partial,
        label_map=work.keep(png(classes_HW, compress_level=1), "image/png"),
        classes=_areas(card, classes_HW, maps.num_classes),
        instances=found,
        instance_map=numbered,
        probabilities=_keep_probabilities(work, maps),
        num_tiles=num_tiles,
    )


def _only(maps: Maps, wanted: frozenset[int] | None, *, also: int | None = None) -> NDArray[Any]:
    """Turn the pixels of other classes into background."""
    if wanted is None:
        return maps.classes_HW
    table = np.full(maps.num_classes, maps.background, dtype=maps.classes_HW.dtype)
    for class_id in wanted | ({also} if also is not None else set()):
        if class_id < maps.num_classes:
            table[class_id] = class_id
    only_HW: NDArray[Any] = table[maps.classes_HW]
    return only_HW


def _areas(card: Card, classes_HW: NDArray[Any], num_classes: int) -> list[SegmentedClass]:
    areas = instances.areas(classes_HW, num_classes)
    order = np.argsort(-areas, kind="stable")
    return [
        SegmentedClass(
            class_id=class_id,
            label=label_of(card, class_id),
            area_px=int(areas[class_id]),
            fraction=float(areas[class_id] / classes_HW.size),
        )
        for class_id in map(int, order)
        if areas[class_id]
    ]


def _instance(card: Card, numbers_HW: NDArray[np.int32], one: instances.Instance, *, rle: bool) -> SegmentedInstance:
    mask = None
    if rle:
        size_hw, counts = instances.coco_rle(numbers_HW, one)
        mask = Rle(size_hw=size_hw, counts=counts)
    return SegmentedInstance(
        instance_id=one.number,
        class_id=one.class_id,
        label=label_of(card, one.class_id),
        score=None if one.score is None else min(one.score, 1.0),
        area_px=one.area_px,
        centroid_xy=one.centroid_xy,
        box_xyxy=one.box_xyxy,
        rle=mask,
    )


def _keep_numbers(work: Work, numbers_HW: NDArray[np.int32], num_objects: int) -> ArtifactRef:
    if num_objects > MAX_NUMBERED:
        raise InvalidRequestError(
            f"Expected at most {MAX_NUMBERED} objects in a map of instances, found {num_objects}. Raise "
            "min_area_px, or ask for rle instead.",
            fields=["instance_map"],
        )
    return work.keep(png(numbers_HW.astype(np.uint16), compress_level=1), "image/png")


def _keep_probabilities(work: Work, maps: Maps) -> ArtifactRef | None:
    if maps.probabilities_KHW is None:
        return None
    stream = io.BytesIO()
    np.save(stream, maps.probabilities_KHW, allow_pickle=False)
    return work.keep(stream.getvalue(), "application/x-npy")
