"""What is in an image, wherever and however it lies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.geometry import QuadXy
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import ClassScore, Result


class SpatialTransformerResult(Result):
    """Where the network looked, and what it saw."""

    task: Literal["spatial_transformer"] = "spatial_transformer"
    """Selects this result."""
    classes: list[ClassScore] = Field(min_length=1)
    """Most probable first."""
    theta: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Affine matrix (2, 3) from the rectified image's coordinates to the input's, both (x, y) in [-1, 1]."""
    quad_xy: QuadXy
    """The attended region in pixels of the original image; may reach beyond its borders."""
    rectified: ArtifactRef | None = None
    """PNG of what the classifier saw, when asked for."""

    @property
    def top(self) -> ClassScore:
        """The most probable class."""
        return self.classes[0]

    def summary(self) -> str:
        """Say the result in one line, for people."""
        return ", ".join(map(str, self.classes[:3]))

    def rows(self) -> list[dict[str, str]]:
        """One row per class."""
        return [entry.row() for entry in self.classes]
