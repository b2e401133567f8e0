"""What a segmentation is made of: classes and single objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import BoxXyxy, PointXy, Rle, format_pixels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BACKGROUNDS = frozenset({"background", "__background__", "unlabeled", "unlabelled", "void"})
"""Labels of classes that are not drawn."""


class SegmentedClass(Schema):
    """How much of the image one class covers."""

    class_id: int = Field(ge=0)
    """Index into the model's labels, and the pixels' value in the label map."""
    label: str
    """The class's name."""
    area_px: int = Field(ge=0)
    """Pixels of the original image."""
    fraction: Score
    """Share of the image."""

    @property
    def is_background(self) -> bool:
        """Whether the class's name says that it is no object."""
        return self.label.lower() in BACKGROUNDS


class SegmentedInstance(Schema):
    """One object."""

    instance_id: int = Field(ge=1)
    """Its pixels' value in the instance map, from 1."""
    class_id: int = Field(ge=0)
    """Index into the model's labels."""
    label: str
    """The class's name."""
    score: Score | None = None
    """Mean probability of its class over its pixels."""
    area_px: int = Field(ge=1)
    """Pixels of the original image."""
    centroid_xy: PointXy
    """Mean position of its pixels."""
    box_xyxy: BoxXyxy
    """Smallest box around it."""
    rle: Rle | None = None
    """Its mask, when asked for."""

    def __str__(self) -> str:
        return f"{self.label} {self.instance_id}, {self.area_px} px at {format_pixels(self.centroid_xy)}"

    def mask_array(self) -> NDArray[np.bool_]:
        """Decode the mask: shape (H, W) of the original image, bool.

        Raises:
            InvalidRequestError: It was not asked for, with the option ``rle``.
            MissingExtraError: The extra ``images`` is not installed.
        """
        if self.rle is None:
            raise InvalidRequestError(
                "This object carries no mask: ask with rle=True, or use instance_mask() of the result with "
                "instance_map=True."
            )
        return self.rle.to_array()
