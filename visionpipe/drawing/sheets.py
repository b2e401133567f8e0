"""Pictures side by side, with captions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw

from visionpipe.drawing.colors import Rgb
from visionpipe.drawing.text import font, wrapped

Cell: TypeAlias = tuple[Image.Image | None, str]
"""A picture (none leaves the place empty), and the caption below it."""

GROUND: Rgb = (250, 250, 251)
INK: Rgb = (28, 31, 38)
DIM: Rgb = (104, 112, 128)
CAPTION_LINES = 2


def sheet(
    rows: Iterable[Sequence[Cell]], *, cell_px: int = 256, title: str = "", headings: Sequence[str] = ()
) -> Image.Image:
    """Set pictures into a table, each as large as fits its cell.

    Args:
        rows: The table; rows may differ in length.
        cell_px: Side of the square that each picture is fitted into.
        title: A line above all.
        headings: A line above each column.
    """
    table = [list(row) for row in rows]
    columns = max([len(headings), *(len(row) for row in table)], default=1)
    text_px = max(11, round(0.055 * cell_px))
    pad = round(0.05 * cell_px) + 4
    line = round(1.35 * text_px)
    above = pad + (2 * line if title else 0) + (round(1.4 * line) if headings else 0)
    heights = [_row_height(row, cell_px, text_px, line) + pad for row in table]
    made = Image.new("RGB", (pad + columns * (cell_px + pad), above + sum(heights) + pad // 2), GROUND)
    draw = ImageDraw.Draw(made)
    if title:
        draw.text((pad, pad), title, font=font(round(1.4 * text_px)), fill=INK)
    for column, heading in enumerate(headings):
        draw.text((pad + column * (cell_px + pad), above - round(1.2 * line)), heading, font=font(text_px), fill=DIM)
    top = above
    for row, height in zip(table, heights, strict=True):
        for column, (picture, caption) in enumerate(row):
            _cell(made, (pad + column * (cell_px + pad), top), cell_px, _deepest(row, cell_px), picture)
            _caption(draw, (pad + column * (cell_px + pad), top + _deepest(row, cell_px)), caption, cell_px, text_px)
        top += height
    return made


def fitted(picture: Image.Image, side_px: int) -> Image.Image:
    """Scale a picture until it just fits a square; small ones keep their pixels visible."""
    factor = side_px / max(picture.size)
    if factor > 2:
        factor = float(int(factor))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    sampling = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, sampling)


def _deepest(row: Sequence[Cell], cell_px: int) -> int:
    sizes = [picture.size for picture, _ in row if picture is not None]
    return max((round(cell_px * height / max(width, height)) for width, height in sizes), default=0)


def _row_height(row: Sequence[Cell], cell_px: int, text_px: int, line: int) -> int:
    captions = [len(wrapped(caption, text_px, cell_px, CAPTION_LINES)) for _, caption in row]
    return _deepest(row, cell_px) + max(captions, default=0) * line


def _cell(made: Image.Image, corner: tuple[int, int], cell_px: int, height: int, picture: Image.Image | None) -> None:
    if picture is not None:
        small = fitted(picture, cell_px)
        made.paste(small, (corner[0] + (cell_px - small.width) // 2, corner[1] + (height - small.height) // 2))


def _caption(draw: ImageDraw.ImageDraw, corner: tuple[int, int], caption: str, cell_px: int, text_px: int) -> None:
    for number, text in enumerate(wrapped(caption, text_px, cell_px, CAPTION_LINES)):
        place = (corner[0] + cell_px // 2, corner[1] + round((1.35 * number + 0.75) * text_px))
        draw.text(place, text, font=font(text_px), fill=INK, anchor="mm")
