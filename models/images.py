"""Encoded bytes to upright pixels, with limits checked from the header before anything is decoded."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from models import headers
from models.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedImage
from models.preprocess import Preprocess
from models.quiet import silence_libtiff

__all__ = ["Decoded", "Preprocess", "decode"]

_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "AVIF": AvifImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "JPEG": JpegImageFile,
    "JPEG2000": Jpeg2KImageFile,
    "PNG": PngImageFile,
    "PPM": PpmImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "LA", "La")
_GREY_16_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)


MAX_JPEG_SCANS = 100
"""Cameras and programs write ten at most; a hundred bytes more for each would cost a second on a large picture."""


@dataclass(frozen=True)
class Decoded:
    """One picture."""

    image: Image.Image
    """Upright pixels, uint8, mode ``RGB``, or ``L`` where the file is grey."""
    full_wh: tuple[int, int] | None = None
    """The picture's own size, where it was decoded at a fraction of that."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the picture in pixels, after EXIF orientation."""
        return self.full_wh or self.image.size


def decode(data: bytes, *, max_bytes: int, max_pixels: int, enough_px: int | None = None) -> Decoded:
    """Decode the first frame of a picture.

    Transparency is dropped, as ``convert("RGB")`` does. 16-bit grey is scaled to 8 bits. Safe in threads.

    A JPEG much larger than needed is decoded at a half, a quarter or an eighth of its size, which is several times
    faster: its blocks are transformed back to fewer pixels, each the mean of those it stands for.

    Args:
        data: The encoded picture.
        max_bytes: Largest encoded size.
        max_pixels: Largest decoded size, width times height.
        enough_px: Length of the shorter side that is enough; unset decodes in full.

    Raises:
        ImageTooLarge: It exceeds a limit.
        UnsupportedImage: Its format or pixel type is not decoded here.
        InvalidImage: It is empty, truncated or damaged.
    """
    if len(data) > max_bytes:
        raise ImageTooLarge(
            f"Expected at most {max_bytes} bytes, got {len(data)}.", max_bytes=max_bytes, bytes=len(data)
        )
    file_format = headers.sniff(data)
    if file_format == "JPEG" and headers.jpeg_scans(data, MAX_JPEG_SCANS) > MAX_JPEG_SCANS:
        raise ImageTooLarge(f"Expected a JPEG of at most {MAX_JPEG_SCANS} scans, got more.", max_scans=MAX_JPEG_SCANS)
    _hush()
    try:
        _check_size(headers.early_size_wh(file_format, data), max_pixels)
        image = _open(file_format, data)
        _check_size(image.size, max_pixels)
        full_wh = image.size
        if enough_px is not None and file_format == "JPEG":
            image.draft(None, (enough_px, enough_px))
        is_full = image.size == full_wh
        image.load()
        # A GIF's frame may be larger than its header says.
        _check_size(image.size, max_pixels)
        upright = _to_8_bit(image)
        orientation = headers.exif_orientation(image.info.get("exif"))
        if orientation != 1 and file_format != "TIFF":
            upright = upright.transpose(_TRANSPOSE[orientation])
            full_wh = full_wh[::-1] if orientation in _SIDEWAYS else full_wh
        # It has been applied; whoever draws on the picture must not apply it again.
        upright.info.pop("exif", None)
    except ModelError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"The picture is larger than it says: {error}.") from error
    except Exception as error:
        # Pillow answers malformed files with nearly every exception there is; all of them are the file's fault.
        raise _fault(file_format, error) from error
    return Decoded(upright, None if is_full else full_wh)


def _fault(file_format: str, error: Exception) -> InvalidImage:
    if "unknown pixel mode" in str(error):
        return UnsupportedImage(
            f"Expected a {file_format} with a common layout of channels and bits, got one that is not decoded here. "
            "Save the picture with 8 bits per channel.",
            format=file_format,
        )
    why = "" if isinstance(error, struct.error) else f" ({error})"
    return InvalidImage(
        f"Expected a whole {file_format} picture, got one that is damaged or cut off{why}.", format=file_format
    )


def _hush() -> None:
    # Pillow warns of odd metadata that does not touch the pixels. `catch_warnings` is not safe in threads.
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")
    silence_libtiff()


def _open(file_format: str, data: bytes) -> ImageFile.ImageFile:
    # The plugin itself, because Image.open applies Pillow's own pixel limit, a global that also warns, and loads
    # every plugin there is. A JPEG of several pictures (MPO) opens as its first.
    plugin = _PLUGINS[file_format]
    if file_format == "PPM":
        data = headers.pnm_without_comments(data)
    try:
        return plugin(io.BytesIO(data))
    except ValueError:
        if file_format != "PNG":
            raise
        # Pillow refuses colour profiles and texts beyond a megabyte, though they do not touch the pixels.
        return plugin(io.BytesIO(headers.png_without_texts(data)))


def _check_size(size_wh: tuple[int, int] | None, max_pixels: int) -> None:
    if size_wh is None:
        return
    width, height = size_wh
    if width < 1 or height < 1:
        raise InvalidImage(f"Expected at least one pixel, got {width}x{height}.")
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"Expected at most {max_pixels} pixels, got {width}x{height} = {width * height}.",
            max_pixels=max_pixels,
            size_wh=[width, height],
        )


def _to_8_bit(image: Image.Image) -> Image.Image:
    mode = image.mode
    # A transparent palette entry changes no colour here, but makes `convert` warn.
    image.info.pop("transparency", None)
    if mode in ("RGB", "L"):
        return image
    if mode in _GREY_MODES:
        return image.convert("L")
    if mode in _GREY_16_MODES or (mode == "I" and image.format in ("PNG", "PPM")):
        return _scale_16_bit(image)
    if mode in ("I", "F"):
        raise UnsupportedImage(
            f"Expected 8 or 16 bits per channel, got 32-bit {'integers' if mode == 'I' else 'floats'}, "
            "whose black and white are not defined. Save the picture with 8 or 16 bits.",
            mode=mode,
        )
    return image.convert("RGB")


def _scale_16_bit(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.uint32)
    # Rounds 65535 steps to 255; Pillow's own conversion clips everything above 255 to white.
    return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
