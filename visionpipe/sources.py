"""What callers give as an image, and what of it travels: a reference, or encoded bytes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Union

from visionpipe.errors import ImageTooLargeError, InvalidImageError, InvalidRequestError, UnsupportedImageError
from visionpipe.file_reading import read_file
from visionpipe.schemas.base import Schema
from visionpipe.schemas.images import MAX_INLINE_BYTES, BlobImage, ImageRef, InlineImage, MediaImage, UrlImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

T = TypeVar("T")

ImageSource: TypeAlias = Union[
    str, bytes, bytearray, memoryview, "os.PathLike[str]", "Image", "NDArray[np.uint8]", ImageRef
]
"""A path, an http(s) URL, encoded bytes, a PIL image, an array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` of uint8 in
RGB order, or a reference. PIL images and arrays are taken as their pixels are, and sent as lossless PNG."""

ImageStream: TypeAlias = Iterable[ImageSource] | AsyncIterable[ImageSource]
"""Images without end or number, from an iterable that may block or an async one."""

MAX_INLINE_TOTAL = 2**20
"""Images of one job that ride inside its request take at most so many bytes together."""

Reference = Callable[[Path, str | None], MediaImage | None]
"""Makes a reference of a path if workers can read it themselves."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """One image, ready to travel."""

    ref: ImageRef | None
    """Where it lies; none when it is sent."""
    data: bytes = b""
    """The encoded image when it is sent."""
    name: str | None = None
    """The caller's word for it."""


def is_single(images: object) -> bool:
    """Whether the caller gave one image (or something that is no image at all), not a collection of them."""
    # An open file is a collection of lines to Python, and no image to us.
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Schema, io.IOBase))
    return one or _is_array(images) or _is_pil(images) or not isinstance(images, (Iterable, AsyncIterable))


def prepare(source: ImageSource, *, max_bytes: int, reference: Reference | None = None) -> Prepared:
    """Make an image ready to travel; reads files and encodes pixels, so it may take its time.

    Raises:
        ImageError: It cannot be read, is too large, or is nothing that can be an image.
    """
    if isinstance(source, (BlobImage, MediaImage, UrlImage, InlineImage)):
        return Prepared(source, name=source.name)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        if len(source) > 4096:
            raise InvalidImageError(f"expected a URL of at most 4096 characters, got {len(source)}")
        return Prepared(UrlImage(url=source, name=source[:1024]))
    if isinstance(source, (str, os.PathLike)):
        return _from_path(source, max_bytes, reference)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif _is_pil(source):
        data = _encode(source)
    elif _is_array(source):
        data = _encode_array(source)
    elif isinstance(source, io.IOBase):
        raise UnsupportedImageError("expected a path or bytes, got an open file; pass its path, or what read() gives")
    else:
        raise UnsupportedImageError(
            f"expected a path, URL, bytes, PIL image, uint8 array or image reference, got {type(source).__name__}"
        )
    return Prepared(None, _checked(data, max_bytes))


def place(images: Iterable[Prepared], *, job: str, hashed: bool) -> tuple[list[ImageRef], dict[str, bytes]]:
    """Decide how the images of one job travel: inside the request, or as its blobs.

    Args:
        images: In the order of the request.
        job: The job that owns the blobs.
        hashed: Whether references name their pixels' hash, so that equal requests mean equal pixels.

    Returns:
        The references, and store key → bytes of the blobs.
    """
    refs: list[ImageRef] = []
    payloads: dict[str, bytes] = {}
    room = MAX_INLINE_TOTAL
    for image in images:
        size = len(image.data)
        if image.ref is not None:
            refs.append(image.ref)
        elif size <= min(MAX_INLINE_BYTES, room):
            # A tiny image is cheaper inside the request than as a key with a lifetime of its own.
            room -= size
            refs.append(InlineImage(data=image.data, name=image.name))
        else:
            # The script that ends the job counts its blobs from 0, so the numbers have no gaps.
            key = f"blob:{job}:{len(payloads)}"
            digest = hashlib.sha256(image.data).hexdigest() if hashed else None
            refs.append(BlobImage(key=key, size_bytes=size, sha256=digest, name=image.name))
            payloads[key] = image.data
    return refs, payloads


def upload_ref(image: Prepared) -> BlobImage:
    """Name an image by its content, as one that is stored for many jobs."""
    digest = hashlib.sha256(image.data).hexdigest()
    return BlobImage(key=f"upload:{digest}", size_bytes=len(image.data), sha256=digest, name=image.name)


def readable(path: str | os.PathLike[str]) -> str:
    """Spell a path so that JSON can hold it: bytes that are no UTF-8 are escaped, the end is kept."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode()[-1024:]


async def unhurried(work: Callable[[], T], sources: Iterable[object]) -> T:
    """Run work beside the event loop, unless its sources are bytes or references, which cost less than a thread."""
    if all(isinstance(source, (bytes, Schema)) for source in sources):
        return work()
    return await asyncio.to_thread(work)


def _from_path(source: str | os.PathLike[str], max_bytes: int, reference: Reference | None) -> Prepared:
    path, name = Path(source), readable(source)
    ref = reference(path, name) if reference else None
    if ref is not None:
        if ref.size_bytes > max_bytes:
            raise ImageTooLargeError(f"{name!r} has {ref.size_bytes} bytes; the limit is {max_bytes}", limit=max_bytes)
        return Prepared(ref, name=name)
    return Prepared(None, _checked(read_file(path, max_bytes=max_bytes), max_bytes, name), name)


def _checked(data: bytes, max_bytes: int, name: str | None = None) -> bytes:
    what = "the image" if name is None else repr(name)
    if not data:
        raise InvalidImageError(f"expected an encoded image, but {what} has 0 bytes")
    if len(data) > max_bytes:
        raise ImageTooLargeError(f"{what} has {len(data)} bytes; the limit is {max_bytes}", limit=max_bytes)
    return data


def _is_pil(value: object) -> bool:
    return hasattr(value, "save") and hasattr(value, "getbands")


def _is_array(value: object) -> bool:
    return hasattr(value, "__array_interface__") and hasattr(value, "dtype")


def _encode(image: Any) -> bytes:
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
        if image.mode == "F":
            raise UnsupportedImageError("expected a PIL image of integer pixels, got mode F; convert it first")
        image = image.convert("RGB")
    buffer = io.BytesIO()
    try:
        # Level 1 is several times faster than the default and hardly larger on photographs.
        image.save(buffer, "PNG", compress_level=1)
    except (OSError, ValueError) as error:
        raise InvalidImageError(f"the PIL image cannot be written as PNG: {error}") from error
    return buffer.getvalue()


def _encode_array(array: Any) -> bytes:
    shape = tuple(array.shape)
    if len(shape) == 3 and shape[2] == 1:
        array = array.reshape(shape[:2])
    shape = tuple(array.shape)
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if str(array.dtype) != "uint8" or not fits or 0 in shape:
        raise UnsupportedImageError(
            "expected an array of uint8, shape (H, W), (H, W, 3) or (H, W, 4) in RGB order, "
            f"got {array.dtype} of shape {shape}; scale floats to 0..255 and move channels last"
        )
    try:
        from PIL import Image
    except ImportError as error:
        raise InvalidRequestError("sending arrays needs Pillow: pip install 'visionpipe[images]'") from error
    return _encode(Image.fromarray(array))
