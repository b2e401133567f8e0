"""Points, boxes and masks; always in pixels of the original image after EXIF orientation, origin top left."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from visionpipe.extras import images_extra
from visionpipe.schemas.base import Schema

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COPY_KEYWORD = "__array__ implementation doesn't accept a copy keyword"
_QUIET = ("ignore", re.compile(_COPY_KEYWORD, re.IGNORECASE), DeprecationWarning, None, 0)

PointXy = tuple[float, float]
"""``(x, y)``; x grows to the right, y downwards."""

SizeWh = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
"""``(width, height)``."""


def _ordered(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        raise ValueError(f"a box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, not {box}")
    return box


BoxXyxy = Annotated[tuple[float, float, float, float], AfterValidator(_ordered)]
"""``(x1, y1, x2, y2)``: left, top, right, bottom."""

QuadXy = tuple[PointXy, PointXy, PointXy, PointXy]
"""The corners that become top left, top right, bottom right and bottom left, in this order."""


class Rle(Schema):
    """A binary mask as COCO's compressed run-length encoding: pycocotools' ``{"size": size_hw, "counts": counts}``."""

    size_hw: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    """Height and width of the mask: those of the original image."""
    counts: str
    """COCO's compressed counts, column by column, as ASCII."""

    def to_array(self) -> NDArray[np.bool_]:
        """Decode the mask: shape (H, W), bool.

        Raises:
            MissingExtraError: The extra ``images`` is not installed.
        """
        with images_extra():
            from pycocotools import mask

        _hush()
        return mask.decode(self.to_coco()).astype(bool)  # type: ignore[no-any-return]

    def area(self) -> int:
        """Count the mask's pixels."""
        with images_extra():
            from pycocotools import mask

        return int(mask.area(self.to_coco()))

    def to_coco(self) -> dict[str, Any]:
        """The mask as pycocotools and COCO files write it."""
        return {"size": list(self.size_hw), "counts": self.counts}


def _hush() -> None:
    # pycocotools 2.0 makes arrays in a way that numpy 2 deprecates. `catch_warnings` is not safe in threads.
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", _COPY_KEYWORD, DeprecationWarning)


def format_pixels(numbers: Iterable[float]) -> str:
    """Write coordinates for people, rounded to whole pixels."""
    return " ".join(f"{number:.0f}" for number in numbers)
