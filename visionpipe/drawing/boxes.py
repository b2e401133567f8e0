"""Boxes with their labels, by supervision's annotators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import supervision as sv

from visionpipe.drawing.canvas import Canvas
from visionpipe.drawing.palettes import class_palette, text_palette
from visionpipe.drawing.supervise import detections
from visionpipe.drawing.text import font_path, one_line, width_of

SMART_LABELS = 60
"""Up to so many labels are moved out of one another's way."""
SMALLEST_TEXT_PX = 9
LONGEST_LABEL = 40
CROWDED = 1.1
"""Where labels with their scores are so much wider than their boxes, the scores are left out."""


def draw_boxes(
    canvas: Canvas,
    boxes_xyxy: Sequence[tuple[float, float, float, float]],
    class_ids: Sequence[int],
    labels: Sequence[str],
    scores: Sequence[float],
) -> None:
    """Draw boxes in the colours of their classes.

    Args:
        canvas: Is drawn on.
        boxes_xyxy: In pixels of the original image, the most certain first: later ones are drawn below them.
        class_ids: Of each box.
        labels: A name for each.
        scores: Of each, 0 to 1; left out where boxes are too small for it.
    """
    if not boxes_xyxy:
        return
    order = range(len(boxes_xyxy) - 1, -1, -1)
    labels = [one_line(label, LONGEST_LABEL) for label in labels]
    placed = canvas.placed([boxes_xyxy[index] for index in order])
    found = detections(placed, [class_ids[index] for index in order], [labels[index] for index in order])
    text_px, line_px = _sizes(canvas, placed)
    names = [f"{labels[index]} {scores[index]:.0%}" for index in order]
    sides = placed[:, 2] - placed[:, 0]
    if np.median([width_of(name, text_px) for name in names] / np.maximum(1.0, sides)) > CROWDED:
        names = [labels[index] for index in order]
    picture = sv.BoxAnnotator(color=class_palette(), thickness=line_px).annotate(canvas.picture, found)
    canvas.picture = sv.RichLabelAnnotator(
        color=class_palette(),
        text_color=text_palette(),
        font_path=font_path(),
        font_size=text_px,
        text_padding=max(2, round(0.25 * text_px)),
        smart_position=len(found) <= SMART_LABELS,
    ).annotate(picture, found, labels=names)


def _sizes(canvas: Canvas, placed: np.ndarray) -> tuple[int, int]:
    # Text as high as half of a small box hides what it names.
    sides = np.sqrt(np.maximum(1.0, (placed[:, 2] - placed[:, 0]) * (placed[:, 3] - placed[:, 1])))
    room = 0.3 * float(np.median(sides))
    text_px = max(SMALLEST_TEXT_PX, round(min(canvas.text_px, room)))
    return text_px, max(1, min(canvas.line_px, round(0.05 * float(np.median(sides)))))
