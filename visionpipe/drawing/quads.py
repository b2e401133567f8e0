"""Quadrilaterals: where a network looked."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from visionpipe.drawing.canvas import Canvas
from visionpipe.drawing.colors import Rgb

DIMMED = 0.45
"""How bright the picture stays outside of the quadrilateral."""


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
    draw, line_px = ImageDraw.Draw(canvas.picture), canvas.line_px
    draw.line([*corners, *corners[:2]], fill=color, width=line_px, joint="curve")
    x, y = corners[0]
    dot = 2.2 * line_px
    draw.ellipse((x - dot, y - dot, x + dot, y + dot), fill=color, outline=(255, 255, 255), width=max(1, line_px // 2))
