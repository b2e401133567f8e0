"""Lines of text under a picture, where they hide nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from visionpipe.drawing.colors import Rgb
from visionpipe.drawing.text import font, one_line, shortened, width_of

MIN_WIDTH_PX = 240
"""Narrower pictures get margins, so that text fits below them."""
GROUND: Rgb = (24, 27, 34)
INK: Rgb = (240, 242, 246)
TRACK: Rgb = (58, 63, 74)


class Line(NamedTuple):
    """One line."""

    text: str
    """What it says."""
    color: Rgb | None = None
    """Of the swatch before it."""
    share: float | None = None
    """Length of the bar after it, 0 to 1."""


def with_banner(picture: Image.Image, lines: Sequence[Line], *, inset: Image.Image | None = None) -> Image.Image:
    """Set lines below a picture.

    Args:
        picture: The picture, RGB.
        lines: In their order.
        inset: A small picture to set beside them, enlarged as far as there is room.
    """
    width = max(MIN_WIDTH_PX, picture.width)
    text_px = max(12, round(0.034 * width))
    # A panorama's own width would give letters higher than the panorama.
    text_px = min(text_px, max(14, round(0.09 * picture.height + 0.012 * width)))
    pad = round(0.7 * text_px)
    row = round(1.55 * text_px)
    room = max(len(lines), 5 if inset else 0) * row
    sheet = Image.new("RGB", (width, picture.height + (room + 2 * pad if room else 0)), GROUND)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    left, top = pad, picture.height + pad
    if inset is not None:
        side = min(room, width // 3)
        sheet.paste(_fitted(inset, side), (left, top))
        left += side + pad
    _write(ImageDraw.Draw(sheet), lines, (left, top, width - pad), text_px, row)
    return sheet


def _write(
    draw: ImageDraw.ImageDraw, lines: Sequence[Line], place: tuple[int, int, int], text_px: int, row: int
) -> None:
    left, top, right = place
    swatch = round(0.72 * text_px)
    gap = round(0.5 * text_px)
    text_left = left + (swatch + gap if any(line.color for line in lines) else 0)
    longest = max((width_of(one_line(line.text), text_px) for line in lines), default=0)
    bar_left = text_left + min(longest, round(0.62 * (right - text_left))) + 2 * gap
    for index, line in enumerate(lines):
        middle = top + index * row + row // 2
        if line.color:
            box = (left, middle - swatch // 2, left + swatch, middle - swatch // 2 + swatch)
            draw.rounded_rectangle(box, radius=swatch // 4, fill=line.color)
        end = right if line.share is None else bar_left - gap
        text = shortened(line.text, text_px, end - text_left)
        draw.text((text_left, middle), text, font=font(text_px), fill=INK, anchor="lm")
        if line.share is not None and right - bar_left > 2 * text_px:
            _bar(draw, (bar_left, middle, right), line, max(3, round(0.3 * text_px)))


def _bar(draw: ImageDraw.ImageDraw, place: tuple[int, int, int], line: Line, thick: int) -> None:
    left, middle, right = place
    top, bottom = middle - thick // 2, middle - thick // 2 + thick
    draw.rounded_rectangle((left, top, right, bottom), radius=thick // 2, fill=TRACK)
    end = left + round((right - left) * min(1.0, max(0.0, line.share or 0.0)))
    if end > left + thick:
        draw.rounded_rectangle((left, top, end, bottom), radius=thick // 2, fill=line.color or INK)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    sampling = Image.Resampling.NEAREST if factor > 2 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, sampling)
