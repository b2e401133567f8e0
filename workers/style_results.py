"""What style transfer tells people: encoded pictures, and loss curves thinned to a bearable length."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from models.gatys import Evaluated
from models.gatys.pictures import Pixels
from visionpipe.schemas.results import StyleLoss
from workers.encoding import jpeg

MAX_LOSSES = 200
"""Entries of a result's loss curve."""
MAX_CURVE = 40
"""Points of the curve in a job's progress."""
PREVIEW_PX, PREVIEW_QUALITY = 320, 85
"""Longer side of a preview, and its JPEG quality."""


def losses(history: Sequence[Evaluated]) -> list[StyleLoss]:
    """Give the terms of evenly spaced evaluations, with the first and the last."""
    return [
        StyleLoss(
            step=evaluated.step,
            total=evaluated.terms.total,
            content=evaluated.terms.content,
            style=evaluated.terms.style,
            tv=evaluated.terms.tv,
        )
        for evaluated in thinned(history, MAX_LOSSES)
    ]


def curve(history: Sequence[Evaluated]) -> list[tuple[int, float]]:
    """Give (step, total loss) of evenly spaced evaluations, with the first and the last."""
    return [(evaluated.step, float(f"{evaluated.terms.total:.4g}")) for evaluated in thinned(history, MAX_CURVE)]


def thinned(history: Sequence[Evaluated], most: int) -> list[Evaluated]:
    """Choose at most so many evaluations, evenly spaced, with the first and the last."""
    if len(history) <= most:
        return list(history)
    return [history[round(index * (len(history) - 1) / (most - 1))] for index in range(most)]


def preview(pixels: Pixels) -> bytes:
    """Encode RGB pixels as a small preview."""
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_PX, PREVIEW_PX))
    return jpeg(image, quality=PREVIEW_QUALITY)
