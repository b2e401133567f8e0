"""Quadrilaterals: where a network looked."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from visionpipe.drawing.canvas import Canvas
from visionpipe.drawing.colors import Rgb

DIMMED = 0.45
"""How bright the picture stays outside of the quadrilateral."""
_FRACTION = 4
_FAR = 1e6


def draw_quad(canvas: Canvas, quad_xy: Sequence[Sequence[float]], color: Rgb) -> None:
    """Outline a quadrilateral and dim what lies outside; a dot marks its first corner, which becomes the top left.

    Args:
        canvas: Is drawn on.
        quad_xy: Four corners in pixels of the original image, which may lie outside of it.
        color: Of the lines.
    """
    corners = [(float(x), float(y)) for x, y in canvas.placed(quad_xy)]
    inside = Image.new("L", canvas.picture.size, 0)
    ImageDraw.Draw(inside).polygon(corners, fill=255)
    dark = canvas.picture.point(lambda value: value * DIMMED)
    canvas.picture = Image.composite(canvas.picture, dark, inside)
    pixels, line_px = np.array(canvas.picture), canvas.line_px
    # OpenCV draws smooth lines between corners given in fractions of a pixel.
    points = np.array(corners).clip(-_FAR, _FAR) * 2**_FRACTION
    fixed = points.round().astype(np.int32)
    cv2.polylines(pixels, [fixed[:, None]], True, color, line_px, cv2.LINE_AA, _FRACTION)
    dot = round(2.2 * line_px * 2**_FRACTION)
    cv2.circle(pixels, tuple(fixed[0].tolist()), dot, color, -1, cv2.LINE_AA, _FRACTION)
    cv2.circle(pixels, tuple(fixed[0].tolist()), dot, (255, 255, 255), max(1, line_px // 2), cv2.LINE_AA, _FRACTION)
    canvas.picture = Image.fromarray(pixels)
