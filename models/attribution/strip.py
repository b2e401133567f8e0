"""Maps side by side while a network becomes random, as in figure 2 of Adebayo et al. (2018).

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from models.attribution.question import Question
from models.attribution.sanity import Sanity
from models.attribution.sanity_verdict import FAILS_FROM
from models.attribution.similarity import Map, shown
from models.attribution.superpixels import levels

Rgb = tuple[int, int, int]

GROUND: Rgb = (250, 250, 251)
INK: Rgb = (28, 31, 38)
DIM: Rgb = (96, 104, 120)
VERDICTS: dict[str, Rgb] = {"passes": (27, 120, 55), "fails": (178, 24, 43), "inconclusive": (140, 90, 0)}
_BLUE, _WHITE, _RED = np.array([33.0, 102, 172]), np.array([247.0, 247, 247]), np.array([178.0, 24, 43])
_HEADING_LINES = 3


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: Of the method.
        sanity: What its check found.
    """

    name: str
    sanity: Sanity


def draw_strip(picture: Image.Image, rows: Sequence[Row], *, cell_px: int = 104, title: str = "") -> Image.Image:
    """Draw the picture, each method's map, and its maps with ever more layers random.

    Red speaks for the class, blue against it; each map has a scale of its own. Below each stands its rank correlation
    with the first, in red where it keeps at least half of the ranks' variance.

    Args:
        picture: The network's input.
        rows: The methods; all were looked at at the same depths.
        cell_px: Width of a map.
        title: Above all.
    """
    text_px = max(11, round(0.11 * cell_px))
    line, pad = round(1.3 * text_px), 5
    cell_wh = (cell_px, round(cell_px * picture.height / picture.width))
    headings = [["input"], ["trained"], *(_heading(depth.layer, text_px, cell_px) for depth in rows[0].sanity.depths)]
    tallest = max(map(len, headings))
    label_px = max(_width(text, text_px) for row in rows for text in (row.name, row.sanity.judgement.verdict)) + 2 * pad
    top = pad + (2 * line if title else 0) + tallest * line + pad
    row_px = cell_wh[1] + line + pad
    made = Image.new("RGB", (label_px + len(headings) * (cell_px + pad) + pad, top + len(rows) * row_px), GROUND)
    draw = ImageDraw.Draw(made)
    if title:
        draw.text((2 * pad, pad), title, font=_font(text_px + 2), fill=INK)
    for column, lines in enumerate(headings):
        for number, text in enumerate(reversed(lines)):
            middle = label_px + column * (cell_px + pad) + cell_px // 2
            draw.text((middle, top - pad - number * line), text, font=_font(text_px), fill=DIM, anchor="ms")
    for number, row in enumerate(rows):
        _draw_row(draw, made, row, picture, (label_px, top + number * row_px), cell_wh, text_px)
    return made


def input_picture(question: Question) -> Image.Image:
    """Show a network's input as it looks before it is normalised: RGB."""
    levels_HW3 = levels(question.x_1CHW, question.low_C, question.high_C)
    return Image.fromarray((levels_HW3 * 255).round().astype(np.uint8))


def diverging(values_HW: Map) -> Image.Image:
    """Colour a signed map: white is 0, full red the largest value above it, full blue as far below."""
    values_HW1 = shown(values_HW)[..., None]
    mixed = _WHITE + np.abs(values_HW1) * (np.where(values_HW1 < 0, _BLUE, _RED) - _WHITE)
    return Image.fromarray(mixed.round().astype(np.uint8))


def stacked(pictures: Iterable[Image.Image], *, gap_px: int = 10) -> Image.Image:
    """Set pictures below each other, left-aligned."""
    parts = list(pictures)
    height = sum(part.height for part in parts) + gap_px * (len(parts) - 1)
    made = Image.new("RGB", (max(part.width for part in parts), height), GROUND)
    top = 0
    for part in parts:
        made.paste(part, (0, top))
        top += part.height + gap_px
    return made


def _draw_row(
    draw: ImageDraw.ImageDraw,
    made: Image.Image,
    row: Row,
    picture: Image.Image,
    corner: tuple[int, int],
    cell_wh: tuple[int, int],
    text_px: int,
) -> None:
    left, top = corner
    sanity, middle = row.sanity, top + cell_wh[1] // 2
    draw.text((5, middle), row.name, font=_font(text_px), fill=INK, anchor="ls")
    verdict = sanity.judgement.verdict
    draw.text((5, middle + 4), verdict, font=_font(text_px), fill=VERDICTS[verdict], anchor="lt")
    maps = [sanity.original_HW, *(depth.attribution_HW for depth in sanity.depths)]
    captions = ["", *(f"{round(depth.similarity.rank_correlation, 2) + 0.0:.2f}" for depth in sanity.depths)]
    shares = [0.0, *(depth.similarity.rank_correlation**2 for depth in sanity.depths)]
    made.paste(_fitted(picture, cell_wh), (left, top))
    for column, (values_HW, caption, share) in enumerate(zip(maps, captions, shares, strict=True), start=1):
        at = left + column * (cell_wh[0] + 5)
        made.paste(_fitted(diverging(values_HW), cell_wh), (at, top))
        draw.rectangle((at - 1, top - 1, at + cell_wh[0], top + cell_wh[1]), outline=(214, 217, 224))
        colour = VERDICTS["fails"] if share >= FAILS_FROM else INK
        below = (at + cell_wh[0] // 2, top + cell_wh[1] + round(1.05 * text_px))
        draw.text(below, caption, font=_font(text_px), fill=colour, anchor="ms")


def _fitted(picture: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    if picture.width > size_wh[0]:
        return picture.resize(size_wh, Image.Resampling.BOX)
    return picture.resize(
        size_wh, Image.Resampling.NEAREST if size_wh[0] >= 2 * picture.width else Image.Resampling.BILINEAR
    )


def _heading(layer: str, text_px: int, width_px: int) -> list[str]:
    """Break a dotted name into lines that fit, after its dots; what is too long loses its beginning."""
    lines: list[str] = []
    for part in layer.split("."):
        joined = f"{lines[-1]}.{part}" if lines else part
        if lines and _width(joined, text_px) <= width_px:
            lines[-1] = joined
        else:
            lines.append(part)
    return [_shortened(text, text_px, width_px) for text in lines[-_HEADING_LINES:]]


def _shortened(text: str, text_px: int, width_px: int) -> str:
    while len(text) > 1 and _width(text, text_px) > width_px:
        text = "…" + text.removeprefix("…")[1:]
    return text


def _width(text: str, text_px: int) -> int:
    return round(_font(text_px).getlength(text))


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size_px)
    except OSError:
        return ImageFont.load_default(size_px)
