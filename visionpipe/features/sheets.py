"""Nine-patch sheets: for each unit a block of patterns beside the block of what they were found in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from visionpipe.drawing.sheets import DIM, GROUND, INK, fitted
from visionpipe.drawing.text import font, shortened, width_of

CELL_PX, GAP_PX, PAD_PX = 76, 6, 24
"""Side of a picture, the gap between two of a block, and the margin around blocks."""
COLUMNS = 2
"""Units side by side."""
MAX_UNITS = 24
"""Units on one sheet; more would not fit a screen."""
TITLE_PX, TEXT_PX, LINE_PX = 19, 13, 26
WELL = (232, 234, 238)


@dataclass(frozen=True)
class Block:
    """One unit on a sheet."""

    name: str
    """Such as ``channel 3``."""
    note: str
    """Such as the range of its activations."""
    pictures: Sequence[tuple[Image.Image | None, Image.Image | None]]
    """Pattern and patch of each image, the most exciting first."""


def nine_patches(blocks: Sequence[Block], *, title: str, subtitle: str = "", top: int = 9) -> Image.Image:
    """Draw the units of one layer.

    Args:
        blocks: At most ``MAX_UNITS``.
        title: Above all.
        subtitle: In a line of its own below.
        top: Images of each unit; 9 makes blocks of 3x3.
    """
    side = math.ceil(math.sqrt(top))
    block_px = side * CELL_PX + (side - 1) * GAP_PX
    rows = math.ceil(top / side)
    unit_wh = (2 * block_px + PAD_PX, LINE_PX + rows * (CELL_PX + GAP_PX))
    columns = min(COLUMNS, max(1, len(blocks)))
    above = PAD_PX + LINE_PX + (LINE_PX if subtitle else 0)
    width = PAD_PX + columns * (unit_wh[0] + 2 * PAD_PX) - PAD_PX
    height = above + math.ceil(len(blocks) / columns) * (unit_wh[1] + PAD_PX) + PAD_PX // 2
    made = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(made)
    draw.text((PAD_PX, PAD_PX - 6), shortened(title, TITLE_PX, width - 2 * PAD_PX), font=font(TITLE_PX), fill=INK)
    if subtitle:
        small = shortened(subtitle, TEXT_PX, width - 2 * PAD_PX)
        draw.text((PAD_PX, PAD_PX + LINE_PX - 6), small, font=font(TEXT_PX), fill=DIM)
    for number, block in enumerate(blocks):
        row, column = divmod(number, columns)
        corner = (PAD_PX + column * (unit_wh[0] + 2 * PAD_PX), above + row * (unit_wh[1] + PAD_PX))
        _unit(made, draw, block, corner, side, block_px, top)
    return made


def _unit(
    made: Image.Image,
    draw: ImageDraw.ImageDraw,
    block: Block,
    corner: tuple[int, int],
    side: int,
    block_px: int,
    top: int,
) -> None:
    left, upper = corner
    draw.text((left, upper + 4), block.name, font=font(TEXT_PX), fill=INK)
    gap = width_of(block.name, TEXT_PX) + 12
    note = shortened(block.note, TEXT_PX, 2 * block_px + PAD_PX - gap)
    draw.text((left + gap, upper + 4), note, font=font(TEXT_PX), fill=DIM)
    for place in range(top):
        row, column = divmod(place, side)
        for half in range(2):
            picture = block.pictures[place][half] if place < len(block.pictures) else None
            x = left + half * (block_px + PAD_PX) + column * (CELL_PX + GAP_PX)
            _cell(made, draw, (x, upper + LINE_PX + row * (CELL_PX + GAP_PX)), picture)


def _cell(made: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: Image.Image | None) -> None:
    x, y = corner
    draw.rectangle((x, y, x + CELL_PX - 1, y + CELL_PX - 1), fill=WELL)
    if picture is not None:
        small = fitted(picture, CELL_PX)
        made.paste(small, (x + (CELL_PX - small.width) // 2, y + (CELL_PX - small.height) // 2))
