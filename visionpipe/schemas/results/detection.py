"""Where things are, and what they are."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import BoxXyxy, Rle, format_pixels
from visionpipe.schemas.results.base import Result


class Detection(Schema):
    """One thing found."""

    box_xyxy: BoxXyxy
    """Around it, in float pixels of the original image."""
    class_id: int = Field(ge=0)
    """Index into the model's labels."""
    label: str
    """The class's name."""
    score: Score
    """How certain the model is."""
    mask: Rle | None = None
    """Its pixels, from networks that segment instances."""
    proposal: int | None = Field(default=None, ge=0)
    """Index of the proposed box that this one was refined from."""


class DetectionResult(Result):
    """The things found in an image."""

    task: Literal["detection"] = "detection"
    """Selects this result."""
    detections: list[Detection]
    """Most certain first."""
    num_slices: int = Field(default=1, ge=1)
    """Pieces the image was looked at in."""

    def summary(self) -> str:
        """Say the result in one line, for people."""
        counts = Counter(found.label for found in self.detections)
        return ", ".join(f"{count} x {label}" for label, count in counts.most_common()) or "nothing found"

    def rows(self) -> list[dict[str, str]]:
        """One row per thing found."""
        return [
            {"class": found.label, "score": f"{found.score:.4f}", "x1 y1 x2 y2": format_pixels(found.box_xyxy)}
            for found in self.detections
        ]
