"""The image of a result, ready to be drawn on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionpipe.drawing.files import opened, upright
from visionpipe.errors import ImageMismatchError, ImageNotFoundError, InvalidImageError, UnsupportedImageError

MIN_SIDE_PX = 384
"""Pictures whose longer side is shorter are enlarged, by a whole number, before anything is drawn."""
_SIDEWAYS = frozenset({5, 6, 7, 8})
_ORIENTATION = 0x0112


@dataclass
class Canvas:
    """A picture to draw on, and how it relates to the original image."""

    picture: Image.Image
    """RGB."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Pixels of the picture per pixel of the original image, in x and y."""

    @property
    def line_px(self) -> int:
        """Width of lines, which grows with the picture."""
        return max(2, round(0.0035 * self._side))

    @property
    def text_px(self) -> int:
        """Height of text, which grows with the picture."""
        return max(12, round(0.026 * self._side))

    @property
    def _side(self) -> float:
        return math.sqrt(self.picture.width * self.picture.height)

    def placed(self, points_xy: Iterable[Sequence[float]]) -> NDArray[np.float64]:
        """Turn points (N, 2), or boxes (N, 4), of the original image into those of the picture."""
        points = np.array([list(point) for point in points_xy], dtype=np.float64)
        scaled: NDArray[np.float64] = points * np.tile(np.array(self.scale), points.shape[1] // 2)
        return scaled


def open_canvas(
    source: Any, size_wh: tuple[int, int] | None, *, max_side_px: int | None = None, min_side_px: int = MIN_SIDE_PX
) -> Canvas:
    """Open an image upright, check that it is the one meant, and make it large or small enough to draw on.

    Args:
        source: A path, encoded bytes, a PIL image, or an array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` of uint8.
        size_wh: The size it must have, upright; ``None`` takes any.
        max_side_px: Longer side of the canvas at most.
        min_side_px: Longer side of the canvas at least.

    Raises:
        ImageNotFoundError: There is no such file.
        InvalidImageError: It is no whole picture.
        UnsupportedImageError: It is nothing that can be drawn on.
        ImageMismatchError: It has another size.
    """
    image = _opened(source)
    turned = _is_turned(image, size_wh)
    found = (image.height, image.width) if turned and _orientation(image) in _SIDEWAYS else image.size
    if size_wh is not None and found != tuple(size_wh):
        raise ImageMismatchError(
            f"Expected the image of the result, {size_wh[0]}x{size_wh[1]} pixels when upright, "
            f"got one of {found[0]}x{found[1]}.",
            expected=list(size_wh),
            got=list(found),
        )
    factor = _factor(max(found), min_side_px, max_side_px)
    wanted = (max(1, round(found[0] * factor)), max(1, round(found[1] * factor)))
    if factor < 1 and image.format == "JPEG":
        # Decodes at 1/2, 1/4 or 1/8 where that is still large enough, in a fraction of time and memory.
        image.draft("RGB", (max(wanted), max(wanted)))
    picture = upright(image, turn=turned)
    if picture.size != wanted:
        picture = picture.resize(wanted, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
    return Canvas(picture, (picture.width / found[0], picture.height / found[1]))


def _opened(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, (bytes, bytearray, memoryview)):
        return opened(bytes(source))
    if isinstance(source, (str, os.PathLike)):
        return opened(_read(source))
    if hasattr(source, "__array_interface__"):
        return _from_array(np.asarray(source))
    raise UnsupportedImageError(
        f"Expected a path, encoded bytes, a PIL image or an array of uint8, got {type(source).__name__}."
    )


def _read(path: str | os.PathLike[str]) -> bytes:
    name = os.fspath(path)
    if name.startswith(("http://", "https://")):
        raise UnsupportedImageError("Expected a file, got a URL: fetch it, and pass its bytes.")
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ImageNotFoundError(f"The image {name!r} cannot be read: {error.strerror}.") from error


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise UnsupportedImageError(
            "Expected an array of uint8, shape (H, W), (H, W, 3) or (H, W, 4) in RGB order, "
            f"got {array.dtype} of shape {array.shape}."
        )
    if not array.size:
        raise InvalidImageError(f"Expected at least one pixel, got an array of shape {array.shape}.")
    return Image.fromarray(np.ascontiguousarray(array))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (OSError, ValueError, SyntaxError, TypeError):
        return 1


def _is_turned(image: Image.Image, size_wh: tuple[int, int] | None) -> bool:
    # A PIL image that was submitted went as its pixels are; where its EXIF says otherwise, only the size can tell.
    if size_wh is None or image.width == image.height or _orientation(image) not in _SIDEWAYS:
        return True
    return image.size != tuple(size_wh)


def _factor(side: int, min_side_px: int, max_side_px: int | None) -> float:
    if max_side_px is not None and side > max_side_px:
        return max_side_px / side
    least = min_side_px if max_side_px is None else min(min_side_px, max_side_px)
    if side < least:
        return float(max(1, (least if max_side_px else least + side - 1) // side))
    return 1.0
