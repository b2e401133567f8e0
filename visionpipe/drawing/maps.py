"""Label maps and masks: tinted, outlined, and encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as rle

from visionpipe.drawing.canvas import Canvas
from visionpipe.drawing.colors import class_color

OPACITY = 0.45
_STRIP = 512
"""Rows that are tinted at once, so that huge pictures take little memory beside their own."""

Map = NDArray[np.integer[Any]]


def draw_masks(canvas: Canvas, masks: Sequence[tuple[int, Callable[[], NDArray[np.bool_]]]]) -> None:
    """Tint and outline masks, the later ones over the earlier.

    Args:
        canvas: Is drawn on.
        masks: Class index, and what gives the mask (H, W) of the original image; one is decoded at a time.
    """
    if masks:
        # In the canvas' size and with a number for each, hundreds of masks take the memory of one.
        numbers_HW = np.zeros((canvas.picture.height, canvas.picture.width), np.uint16)
        for number, (_, mask) in enumerate(masks, start=1):
            numbers_HW[_resized(mask().astype(np.uint8), canvas) > 0] = number
        classes = {number: class_id for number, (class_id, _) in enumerate(masks, start=1)}
        tint(canvas, numbers_HW, classes)
        outline(canvas, numbers_HW, classes)


def tint(canvas: Canvas, values_HW: Map, classes: Mapping[int, int]) -> None:
    """Tint pixels by their value; ``classes`` says of which class a value is, others are left alone."""
    colors, shown = _table(values_HW, classes)
    values_HW, pixels = _resized(values_HW, canvas), np.array(canvas.picture)
    for start in range(0, len(pixels), _STRIP):
        strip, values = pixels[start : start + _STRIP], values_HW[start : start + _STRIP]
        mixed = cv2.addWeighted(strip, 1 - OPACITY, colors[values], OPACITY, 0)
        np.copyto(strip, mixed, where=shown[values][..., None])
    canvas.picture = Image.fromarray(pixels)


def outline(canvas: Canvas, values_HW: Map, classes: Mapping[int, int]) -> None:
    """Draw the borders between different values, inside of each; ``classes`` as for ``tint``."""
    colors, shown = _table(values_HW, classes)
    values_HW, pixels = _resized(values_HW, canvas), np.array(canvas.picture)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (canvas.line_px + 1, canvas.line_px + 1))
    edge = (cv2.dilate(values_HW, kernel) != values_HW) | (cv2.erode(values_HW, kernel) != values_HW)
    edge &= shown[values_HW]
    pixels[edge] = colors[values_HW[edge]]
    canvas.picture = Image.fromarray(pixels)


def numbered(masks: Iterable[tuple[int, NDArray[np.bool_]]]) -> Map:
    """Write masks (H, W) of one size into one map, each with its number; later ones lie above."""
    numbers_HW: Map | None = None
    for number, mask in masks:
        if numbers_HW is None:
            numbers_HW = np.zeros(mask.shape, np.int32)
        numbers_HW[mask] = number
    assert numbers_HW is not None
    return numbers_HW


def encode_instances(
    numbers_HW: Map, instances: Sequence[tuple[int, tuple[float, float, float, float]]]
) -> list[tuple[tuple[int, int], str]]:
    """Encode the masks of numbered objects as COCO's RLE.

    Args:
        numbers_HW: Their numbers, in the size of the original image.
        instances: Number and box of each.

    Returns:
        Height and width, and the compressed counts, of each.
    """
    height, width = numbers_HW.shape
    made = []
    # In Fortran's order, as the encoder wants it; one buffer for all, of which only the object's box changes.
    buffer = np.zeros((height, width), np.uint8, order="F")
    for number, box in instances:
        x1, y1, x2, y2 = (max(0, round(side)) for side in box)
        rows, columns = slice(max(0, y1 - 1), y2 + 2), slice(max(0, x1 - 1), x2 + 2)
        buffer[rows, columns] = numbers_HW[rows, columns] == number
        encoded = rle.encode(buffer)
        buffer[rows, columns] = 0
        made.append(((height, width), encoded["counts"].decode("ascii")))
    return made


def _table(values_HW: Map, classes: Mapping[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    size = int(max(values_HW.max(initial=0), max(classes, default=0))) + 1
    colors, shown = np.zeros((size, 3), np.uint8), np.zeros(size, bool)
    for value, class_id in classes.items():
        colors[value], shown[value] = class_color(class_id), True
    return colors, shown


def _resized(values_HW: Map, canvas: Canvas) -> Any:
    # OpenCV resizes and grows no 32-bit integers; numbers of objects fit into 16 bits nearly always.
    kind = np.uint8 if values_HW.dtype == np.uint8 else np.uint16
    if values_HW.dtype not in (np.uint8, np.uint16):
        values_HW = (values_HW % 65536).astype(kind)
    if values_HW.shape == (canvas.picture.height, canvas.picture.width):
        return values_HW
    return cv2.resize(values_HW, canvas.picture.size, interpolation=cv2.INTER_NEAREST_EXACT)
