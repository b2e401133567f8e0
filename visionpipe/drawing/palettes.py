"""The classes' colours, for supervision's annotators.

Beside ``colors`` rather than in it: supervision takes a second to import, which only those should pay who draw boxes.
"""

from __future__ import annotations

from functools import cache

import supervision as sv

from visionpipe.drawing.colors import NUM_COLORS, class_color, text_color


@cache
def class_palette() -> sv.ColorPalette:
    """The classes' colours, for supervision's annotators."""
    return sv.ColorPalette([sv.Color(*class_color(index)) for index in range(NUM_COLORS)])


@cache
def text_palette() -> sv.ColorPalette:
    """The colours of text on them."""
    return sv.ColorPalette([sv.Color(*text_color(class_color(index))) for index in range(NUM_COLORS)])
