"""Encoded pictures and arrays to pixels and back."""

from __future__ import annotations

import contextlib
import io
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from visionpipe.errors import InvalidImageError, InvalidRequestError

JPEG_QUALITY = 92
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
"""What workers decode. Pillow knows many more, of which one starts Ghostscript on what it is given."""


def decode(data: bytes) -> Image.Image:
    """Decode a picture upright, as RGB.

    Raises:
        InvalidImageError: The bytes are no whole picture of a format known here.
    """
    return upright(opened(data))


def opened(data: bytes) -> Image.Image:
    """Read the header of a picture; its pixels are decoded when they are needed.

    Raises:
        InvalidImageError: The bytes are of no format known here.
    """
    if not data:
        raise InvalidImageError("Expected an encoded picture, got 0 bytes.")
    # `Image.open` refuses, or warns of, large pictures by a global limit that belongs to the application.
    Image.init()
    for name in FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None:
            continue
        # Pillow's plugins answer bytes that are not theirs with nearly every exception there is.
        with contextlib.suppress(Exception):
            accepted = accept(data[:16])
            if accepted and not isinstance(accepted, str):
                return factory(io.BytesIO(data), "")
    raise InvalidImageError("Expected a picture, got bytes of a format that is not known here.")


def upright(image: Image.Image, *, turn: bool = True) -> Image.Image:
    """Decode a picture that was opened, turn it as EXIF says, and make it RGB; the picture given stays as it is.

    Raises:
        InvalidImageError: It is damaged or cut off.
    """
    try:
        return to_rgb(ImageOps.exif_transpose(image) if turn else image.copy())
    except Exception as error:
        # Pillow answers malformed files with nearly every exception there is.
        raise InvalidImageError(f"Expected a whole picture, got one that is damaged or cut off ({error}).") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Make a picture of any mode RGB; transparency is dropped, 16-bit grey is scaled to 8 bits."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    image.info.pop("transparency", None)
    return image.convert("RGB")


def decode_map(data: bytes) -> NDArray[np.integer[Any]]:
    """Decode a grey PNG whose pixel values are numbers: shape (H, W), uint8 or uint16."""
    with opened(data) as image:
        values = np.asarray(image)
    if values.ndim != 2:
        raise InvalidImageError(f"Expected a grey map, got a picture of mode {image.mode}.")
    return values if values.dtype == np.uint8 else values.astype(np.uint16, copy=False)


def load_npy(data: bytes) -> NDArray[Any]:
    """Read a ``.npy`` file."""
    array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def encode(picture: Image.Image, name: str) -> bytes:
    """Encode a picture in the format of a file name's suffix.

    Raises:
        InvalidRequestError: The suffix is of no format that can be written.
    """
    suffix = PurePath(name).suffix.lower()
    Image.init()
    kind = Image.EXTENSION.get(suffix)
    if kind is None or kind not in Image.SAVE:
        raise InvalidRequestError(
            f"Expected a file name that ends in .png, .jpg, .webp, .tif or .json, got {PurePath(name).name!r}."
        )
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind, **({"quality": JPEG_QUALITY} if kind in ("JPEG", "WEBP") else {}))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"The drawing cannot be written as {suffix}: {error}. Take .png instead.") from error
    return buffer.getvalue()
