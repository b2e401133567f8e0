"""What the units inside a network respond to."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema
from visionpipe.schemas.geometry import BoxXyxy, format_pixels
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import Result, StopReason


class UnitView(Schema):
    """One unit: a channel of a layer, and where in it."""

    layer: str
    """The module, by its dotted name."""
    channel: int = Field(ge=0)
    """Index of the channel."""
    activation: float | None = None
    """How strongly it responds, at its strongest position."""
    position_yx: tuple[int, int] | None = None
    """That position, as row and column of the layer's output."""
    box_xyxy: BoxXyxy | None = None
    """The receptive field of that position, in pixels of the original image, cut at its borders."""
    pattern: ArtifactRef | None = None
    """RGB PNG: the filter, the projected activation, or the maximising image."""
    patch: ArtifactRef | None = None
    """RGB PNG: the receptive field's crop of the image."""


class FeatureVisualizationResult(Result):
    """The units asked for."""

    task: Literal["feature_visualization"] = "feature_visualization"
    """Selects this result."""
    method: str
    """How they were made visible."""
    units: list[UnitView]
    """Layer by layer; in the order asked for, or strongest first."""
    sheet: ArtifactRef | None = None
    """PNG with all units side by side, when asked for."""
    steps: int = Field(default=1, ge=0)
    """Device steps made."""
    stopped: StopReason
    """Why it ended."""

    def summary(self) -> str:
        """Say the result in one line, for people."""
        layers = ", ".join(dict.fromkeys(unit.layer for unit in self.units))
        return f"{self.method} of {len(self.units)} units in {layers} ({self.stopped})"

    def rows(self) -> list[dict[str, str]]:
        """One row per unit."""
        return [
            {
                "layer": unit.layer,
                "channel": str(unit.channel),
                "activation": "" if unit.activation is None else f"{unit.activation:.4g}",
                "x1 y1 x2 y2": "" if unit.box_xyxy is None else format_pixels(unit.box_xyxy),
            }
            for unit in self.units
        ]
