"""What the units inside a network respond to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.base import Schema
from visionpipe.schemas.geometry import BoxXyxy, format_pixels
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import StopReason
from visionpipe.schemas.results.parts import ListResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas

CELL_PX, COLUMNS = 192, 6
"""How units are set into a drawing."""


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


class FeatureVisualizationResult(ListResult[UnitView]):
    """The units asked for."""

    PARTS: ClassVar[str] = "units"
    SHOWN_ARTIFACT: ClassVar[str | None] = "sheet"

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

    def filter(
        self,
        *,
        layer: str | None = None,
        channels: list[int] | None = None,
        min_activation: float = float("-inf"),
        where: Callable[[UnitView], bool] | None = None,
    ) -> Self:
        """Keep some of the units: of a layer, some channels, those that respond as strongly as that, or by a test."""
        return self.with_parts(
            unit
            for unit in self
            if layer in (None, unit.layer)
            and (channels is None or unit.channel in channels)
            and (min_activation == float("-inf") or (unit.activation or 0.0) >= min_activation)
            and (where is None or where(unit))
        )

    def _paint(self, canvas: Canvas | None) -> Image:
        from visionpipe.drawing.files import decode
        from visionpipe.drawing.sheets import Cell, sheet

        cells: list[Cell] = [
            (decode(self.read(ref)), f"{unit.layer} {unit.channel}")
            for unit in self.units
            for ref in (unit.patch, unit.pattern)
            if ref is not None
        ]
        if not cells:
            raise InvalidRequestError("These units have no pictures to draw.")
        rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
        return sheet(rows, cell_px=CELL_PX, title=self.summary())
