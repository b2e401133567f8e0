"""An image's content in the style of other images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema
from visionpipe.schemas.geometry import SizeWh
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import Result, StopReason


class StyleLoss(Schema):
    """The weighted terms of the loss at one step."""

    step: int = Field(ge=0)
    """Evaluations so far; 0 is the initial image."""
    total: float = Field(ge=0)
    """Sum of the terms."""
    content: float = Field(ge=0)
    """The content's term."""
    style: float = Field(ge=0)
    """The styles' term."""
    tv: float = Field(default=0, ge=0)
    """The total variation's term."""


class StyleTransferResult(Result):
    """A stylised picture and how it came about."""

    task: Literal["style_transfer"] = "style_transfer"
    """Selects this result."""
    picture: ArtifactRef
    """RGB PNG."""
    size_wh: SizeWh
    """Width and height of the picture, in pixels."""
    losses: list[StyleLoss] = Field(min_length=1)
    """From the initial image to the picture, at most about 200 of them."""
    steps: int = Field(ge=0)
    """Evaluations made."""
    step_ms: float = Field(ge=0)
    """Mean cost of one of them, in milliseconds."""
    stopped: StopReason
    """Why it ended."""

    def summary(self) -> str:
        """Say the result in one line, for people."""
        width, height = self.size_wh
        fall = f"loss {self.losses[0].total:.3g} to {self.losses[-1].total:.3g}"
        return f"{width}x{height} picture, {fall} in {self.steps} steps of {self.step_ms:.0f} ms ({self.stopped})"
