"""Pictures as files."""

from __future__ import annotations

import io
from typing import Any

from numpy.typing import NDArray
from PIL import Image


def png(picture: Image.Image | NDArray[Any], *, compress_level: int = 6) -> bytes:
    """Encode a picture without loss.

    Args:
        picture: An image; or uint8 (H, W) or (H, W, 3), RGB; or uint16 (H, W), which gives 16 bits.
        compress_level: 0 to 9; 1 is the quickest that compresses, for large maps.
    """
    return _encoded(_image(picture), "PNG", compress_level=compress_level)


def jpeg(picture: Image.Image | NDArray[Any], *, quality: int) -> bytes:
    """Encode a picture with loss, as a small file.

    Args:
        picture: An image, or uint8 values (H, W, 3).
        quality: 1 to 95.
    """
    return _encoded(_image(picture), "JPEG", quality=quality)


def _image(picture: Image.Image | NDArray[Any]) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def _encoded(image: Image.Image, file_format: str, **how: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **how)
    return stream.getvalue()
