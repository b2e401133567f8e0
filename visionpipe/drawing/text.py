"""Fonts, and text that fits."""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

from PIL import ImageFont

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONT_FILE = "DejaVuSans.ttf"
"""Knows more scripts than Pillow's own font, which takes its place where it is not installed."""


@cache
def font_path() -> str | None:
    """Where the font lies, if it is installed."""
    try:
        return str(ImageFont.truetype(FONT_FILE, 10).path)
    except OSError:
        return None


@cache
def font(size_px: int) -> Font:
    """Give the font in a size; the height of a line is about 1.2 times that."""
    path = font_path()
    return ImageFont.load_default(size_px) if path is None else ImageFont.truetype(path, size_px)


def one_line(text: str, most: int = 200) -> str:
    """Put a text onto one line of at most so many characters: the layout of text knows no line breaks."""
    joined = " ".join(text.split())
    return joined if len(joined) <= most else joined[: most - 1] + "…"


def width_of(text: str, size_px: int) -> int:
    """Measure a line of text, in pixels."""
    return round(font(size_px).getlength(text))


def shortened(text: str, size_px: int, width_px: int) -> str:
    """Cut a line so that it fits, with an ellipsis for what is lost."""
    text = one_line(text)
    if width_of(text, size_px) <= width_px:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(text[:middle] + "…", size_px) <= width_px else (low, middle - 1)
    return text[:low] + "…"


def wrapped(text: str, size_px: int, width_px: int, lines: int) -> list[str]:
    """Break a text into at most so many lines that fit."""
    made: list[str] = []
    words = text.split()
    while words and len(made) < lines:
        taken = 1
        while taken < len(words) and width_of(" ".join(words[: taken + 1]), size_px) <= width_px:
            taken += 1
        last = len(made) == lines - 1
        made.append(shortened(" ".join(words if last else words[:taken]), size_px, width_px))
        words = words[taken:]
    return made
