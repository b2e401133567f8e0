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

MAX_WIDTH_PX = 1260
"""Width of a drawing, about."""
CELL_PX = 192
"""Side of a unit's picture in it."""
MANY_UNITS, SMALL_CELL_PX = 24, 112
"""From how many pictures on they are smaller, and their side then."""


class UnitView(Schema):
    """One unit: a channel of a layer, and where in it."""

    layer: str
    """The module, by its dotted name."""
    channel: int = Field(ge=0)
    """Index of the channel."""
    activation: float | None = None
    """How strongly it responds, at its strongest position; only what is above zero excites it."""
    position_yx: tuple[int, int] | None = None
    """That position, as row and column of the layer's output; absent where it has no positions, or none is stronger."""
    box_xyxy: BoxXyxy | None = None
    """The receptive field of that position, in pixels of the original image, cut at its borders; what a unit without
    positions sees is all that the network sees."""
    pattern: ArtifactRef | None = None
    """RGB PNG: the filter (mid-grey is 0), the projected activation (the same) within its receptive field, or the
    maximising image. Small ones are enlarged by a whole factor."""
    patch: ArtifactRef | None = None
    """RGB PNG: the receptive field's crop of the image, at most 512 pixels wide and high."""


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

        layers = list(dict.fromkeys(unit.layer for unit in self.units))
        seen = [unit for unit in self.units if unit.pattern is not None]
        if not seen:
            raise InvalidRequestError("These units have no pictures to draw.")
        # The crop of the image stands beside the pattern, so that one explains the other.
        groups: list[list[Cell]] = [
            [
                (decode(self.read(ref)), _caption(unit, with_layer=len(layers) > 1) if ref is unit.pattern else "")
                for ref in (unit.pattern, unit.patch)
                if ref is not None
            ]
            for unit in seen
        ]
        cell_px = SMALL_CELL_PX if sum(map(len, groups)) > MANY_UNITS else CELL_PX
        wide = max(map(len, groups))
        columns = max(1, MAX_WIDTH_PX // (wide * (cell_px + cell_px // 16)))
        # Rows of about the same length: ten pictures are two rows of five rather than six and four.
        columns = -(-len(groups) // -(-len(groups) // columns))
        rows = [
            [cell for group in groups[start : start + columns] for cell in group + [(None, "")] * (wide - len(group))]
            for start in range(0, len(groups), columns)
        ]
        title = f"{self.method.replace('_', ' ')}, {layers[0]}" if len(layers) == 1 else self.method.replace("_", " ")
        return sheet(rows, cell_px=cell_px, title=title)


def _caption(unit: UnitView, *, with_layer: bool) -> str:
    name = f"{unit.layer} {unit.channel}" if with_layer else str(unit.channel)
    return name if unit.activation is None else f"{name}: {unit.activation:.3g}"
