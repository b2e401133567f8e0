"""The class of every pixel."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import BoxXyxy, PointXy, Rle, format_pixels
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import Result


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


class SegmentationResult(Result):
    """A label map with its classes and instances."""

    task: Literal["segmentation"] = "segmentation"
    """Selects this result."""
    label_map: ArtifactRef
    """Grey PNG of the original size; the pixel values are class indices (8 bit, or 16 above 256 classes)."""
    classes: list[SegmentedClass] = Field(min_length=1)
    """The classes that occur, largest first."""
    instances: list[SegmentedInstance] | None = None
    """The single objects, largest first; absent when not asked for."""
    instance_map: ArtifactRef | None = None
    """Grey 16-bit PNG of the original size; 0 is none, other values are ``instance_id``."""
    probabilities: ArtifactRef | None = None
    """``.npy`` of shape (classes, H, W), float16, values 0-1, in the original size."""
    num_tiles: int = Field(default=1, ge=1)
    """Pieces the image was segmented in."""

    def summary(self) -> str:
        """Say the result in one line, for people."""
        shares = ", ".join(f"{entry.label} {entry.fraction:.1%}" for entry in self.classes)
        return shares if self.instances is None else f"{shares}; {len(self.instances)} objects"

    def rows(self) -> list[dict[str, str]]:
        """One row per object, or per class where objects were not asked for."""
        if self.instances is None:
            return [
                {"class": entry.label, "area px": str(entry.area_px), "share": f"{entry.fraction:.2%}"}
                for entry in self.classes
            ]
        return [
            {
                "object": str(found.instance_id),
                "class": found.label,
                "area px": str(found.area_px),
                "centre": format_pixels(found.centroid_xy),
                "x1 y1 x2 y2": format_pixels(found.box_xyxy),
            }
            for found in self.instances
        ]
