"""One colour per class, the same in every task and picture."""

from __future__ import annotations

import colorsys
from functools import cache

Rgb = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

NUM_COLORS = 360
"""Classes beyond so many take the colours of the first ones again."""
_GOLDEN_TURN = 0.381966
_FIRST_HUE = 0.59
# Neighbouring classes differ in brightness as well as in hue, for those who see few hues.
_TONES = ((0.86, 0.94), (0.95, 0.74), (0.62, 0.98))


@cache
def class_color(class_id: int) -> Rgb:
    """Give the colour of a class; neighbours are a golden angle apart in hue, so that any few classes differ well."""
    index = class_id % NUM_COLORS
    saturation, value = _TONES[index % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb((_FIRST_HUE + index * _GOLDEN_TURN) % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: Rgb) -> Rgb:
    """Give black or white, whichever is read more easily on a colour."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in background)
    # At this luminance black and white have the same contrast.
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)
