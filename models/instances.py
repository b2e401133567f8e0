"""From label maps to single objects, measured; works in bands so that a map of 10000x10000 pixels takes little memory.

Shape suffixes: H height, W width. Coordinates are continuous: pixel (0, 0) covers the square from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

BAND_ROWS = 512
"""Rows that are measured at once."""
REACH_PX = 32
"""A border pixel farther than this from every object belongs to none."""

Classes = NDArray[np.integer[Any]]
Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class Instance:
    """One object."""

    number: int
    """Its pixels' value in the map of instances, from 1."""
    class_id: int
    """Its class."""
    area_px: int
    """Its pixels."""
    centroid_xy: tuple[float, float]
    """Mean position of its pixels."""
    box_xyxy: tuple[int, int, int, int]
    """Left, top, right, bottom of the smallest box around it."""
    score: float | None = None
    """Mean of what ``separate`` was given as scores over its pixels."""


def separate(
    classes_HW: Classes,
    *,
    background: int = 0,
    border: int | None = None,
    scores_HW: NDArray[Any] | None = None,
    min_area_px: int = 0,
) -> tuple[Numbers, list[Instance]]:
    """Find the single objects of a label map: connected components of each foreground class.

    Touching objects are told apart by the border class, if there is one; its pixels then go to the nearest object, at
    most ``REACH_PX`` away. Connected are pixels that share a side.

    Args:
        classes_HW: The class of each pixel.
        background: The class that is no object.
        border: The class that lies between and around objects.
        scores_HW: A number for each pixel, such as the probability of its class; uint8 counts as 255ths.
        min_area_px: Objects with fewer pixels are left out.

    Returns:
        The number of the object at each pixel, int32 of shape (H, W), 0 for none; and the objects, largest first,
        numbered from 1 in that order.
    """
    numbers_HW, class_ids = _components(classes_HW, background=background, border=border)
    if border is not None:
        _give_border(numbers_HW, classes_HW, border)
    found = _measured(numbers_HW, class_ids, scores_HW)
    kept = sorted(
        (one for one in found if one.area_px >= max(min_area_px, 1)), key=lambda one: (-one.area_px, one.number)
    )
    table = np.zeros(len(class_ids), dtype=np.int32)
    table[[one.number for one in kept]] = np.arange(1, len(kept) + 1)
    for band in _bands(len(numbers_HW)):
        numbers_HW[band] = table[numbers_HW[band]]
    return numbers_HW, [_renumbered(one, rank) for rank, one in enumerate(kept, start=1)]


def coco_rle(numbers_HW: Numbers, instance: Instance) -> tuple[tuple[int, int], str]:
    """Encode one object's mask as COCO does, without ever making a mask of the whole picture.

    Args:
        numbers_HW: As ``separate`` gives it.
        instance: One of its objects.

    Returns:
        Height and width of the picture, and the compressed runs.
    """
    from pycocotools import mask as coco

    height, width = numbers_HW.shape
    left, top, right, bottom = instance.box_xyxy
    crop_WH = (numbers_HW[top:bottom, left:right] == instance.number).T
    # COCO counts down the columns; a row of zeros above and below ends each column's runs.
    steps = np.diff(np.pad(crop_WH, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    columns, begins = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    offset = (left + columns) * height + top
    edges = np.stack([offset + begins, offset + ends], axis=1).ravel()
    # Runs that reach the bottom go on at the top of the next column where the object fills both.
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
    edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if counts[-1] == 0:
        counts = counts[:-1]
    encoded = coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return (height, width), encoded["counts"].decode()


def areas(classes_HW: Classes, num_classes: int) -> NDArray[np.int64]:
    """Count the pixels of each class; int64 of shape (num_classes,)."""
    total = np.zeros(num_classes, dtype=np.int64)
    for band in _bands(len(classes_HW)):
        total += np.bincount(classes_HW[band].ravel(), minlength=num_classes)
    return total


def _components(classes_HW: Classes, *, background: int, border: int | None) -> tuple[Numbers, NDArray[np.int64]]:
    """Number the connected components of every foreground class; gives the map, and each number's class."""
    present = [int(class_id) for class_id in np.flatnonzero(areas(classes_HW, int(classes_HW.max(initial=0)) + 1))]
    foreground = [class_id for class_id in present if class_id not in (background, border)]
    numbers_HW: Numbers | None = None
    class_ids: list[int] = [background]
    for class_id in foreground:
        count, labels_HW = cv2.connectedComponents((classes_HW == class_id).view(np.uint8), connectivity=4)
        if numbers_HW is None:
            numbers_HW = labels_HW
        else:
            for band in _bands(len(classes_HW)):
                part = labels_HW[band]
                numbers_HW[band] += np.where(part > 0, part + (len(class_ids) - 1), 0)
        class_ids += [class_id] * (count - 1)
    if numbers_HW is None:
        numbers_HW = np.zeros(classes_HW.shape, dtype=np.int32)
    return numbers_HW, np.array(class_ids)


def _give_border(numbers_HW: Numbers, classes_HW: Classes, border: int) -> None:
    """Give border pixels to the nearest object, in place."""
    above = numbers_HW[:0]
    for band in _bands(len(numbers_HW)):
        # The next band must see these rows as they are now, not what is given to them here.
        last = numbers_HW[band][-REACH_PX:].copy()
        seen = np.concatenate([above, numbers_HW[band.start : band.stop + REACH_PX]])
        nearest = _nearest(seen)[len(above) :][: band.stop - band.start]
        wanted = classes_HW[band] == border
        numbers_HW[band][wanted] = nearest[wanted]
        above = last


def _nearest(numbers_HW: Numbers) -> Numbers:
    """Name the nearest object of each pixel; 0 beyond ``REACH_PX``."""
    empty = (numbers_HW == 0).view(np.uint8)
    if bool(empty.all()):
        return numbers_HW
    distance, sources = cv2.distanceTransformWithLabels(
        empty, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(int(sources.max()) + 1, dtype=np.int32)
    taken = empty == 0
    table[sources[taken]] = numbers_HW[taken]
    return np.where(distance <= REACH_PX, table[sources], 0).astype(np.int32)


def _measured(numbers_HW: Numbers, class_ids: NDArray[np.int64], scores_HW: NDArray[Any] | None) -> Iterator[Instance]:
    size = len(class_ids)
    area, sum_x, sum_y, sum_score = (np.zeros(size) for _ in range(4))
    across = np.arange(numbers_HW.shape[1])
    for band in _bands(len(numbers_HW)):
        rows, columns = np.nonzero(numbers_HW[band])
        numbers = numbers_HW[band][rows, columns]
        area += np.bincount(numbers, minlength=size)
        sum_x += np.bincount(numbers, weights=across[columns], minlength=size)
        sum_y += np.bincount(numbers, weights=rows + band.start, minlength=size)
        if scores_HW is not None:
            sum_score += np.bincount(numbers, weights=scores_HW[band][rows, columns], minlength=size)
    unit = 255.0 if scores_HW is not None and scores_HW.dtype == np.uint8 else 1.0
    for number, where in enumerate(ndimage.find_objects(numbers_HW, size - 1), start=1):
        if where is None:
            continue
        pixels = area[number]
        yield Instance(
            number=number,
            class_id=int(class_ids[number]),
            area_px=int(pixels),
            centroid_xy=(float(sum_x[number] / pixels + 0.5), float(sum_y[number] / pixels + 0.5)),
            box_xyxy=(where[1].start, where[0].start, where[1].stop, where[0].stop),
            score=None if scores_HW is None else float(sum_score[number] / pixels / unit),
        )


def _renumbered(one: Instance, number: int) -> Instance:
    return Instance(number, one.class_id, one.area_px, one.centroid_xy, one.box_xyxy, one.score)


def _bands(num_rows: int) -> Sequence[slice]:
    return [slice(top, min(top + BAND_ROWS, num_rows)) for top in range(0, num_rows, BAND_ROWS)]
