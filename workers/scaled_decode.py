"""Whether a classifier answers pictures that were decoded at a part of their size as it answers whole ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import torch
from PIL import Image
from torch import Tensor

from models.images import decode
from models.preprocess import Preprocess

QUALITY = 90
"""Of the JPEGs that are decoded both ways."""
LIMIT = 2**28


def answers_both_ways(
    pictures: Iterable[Image.Image], preprocess: Preprocess, enough_px: int, answer: Callable[[Tensor], Tensor]
) -> Iterable[tuple[Tensor, Tensor]]:
    """Give the answers to enlarged pictures decoded whole and at a part of their size.

    Args:
        pictures: Upright, of any size.
        preprocess: The card's.
        enough_px: Shorter side at which pictures may be decoded.
        answer: From an input, float32 (1, C, H, W), to an answer.
    """
    for picture in pictures:
        data = _enlarged(picture, 2 * enough_px)
        whole, part = (
            decode(data, max_bytes=LIMIT, max_pixels=LIMIT, enough_px=enough) for enough in (None, enough_px)
        )
        levels = (preprocess.levels(one.image, one.full_wh) for one in (whole, part))
        exact, quick = (answer(preprocess.normalise(torch.stack([one]))) for one in levels)
        yield exact, quick


def _enlarged(picture: Image.Image, side_px: int) -> bytes:
    factor = side_px / min(picture.size)
    size_wh = [max(side_px, round(side * factor)) for side in picture.size]
    stream = io.BytesIO()
    picture.resize((size_wh[0], size_wh[1]), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
