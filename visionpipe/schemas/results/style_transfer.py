"""An image's content in the style of other images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from visionpipe.extras import images_extra
from visionpipe.schemas.base import Schema
from visionpipe.schemas.geometry import SizeWh
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import Picture, Result, StopReason

if TYPE_CHECKING:
    from PIL.Image import Image


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

    SHOWN_ARTIFACT: ClassVar[str | None] = "picture"

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

    def rows(self) -> list[dict[str, str]]:
        """The loss and its terms, at a few steps from first to last."""
        every = max(1, (len(self.losses) - 1) // 8)
        shown = [*self.losses[:-1:every], self.losses[-1]]
        terms = ("total", "content", "style", "tv")
        return [{"step": str(loss.step), **{term: f"{getattr(loss, term):.4g}" for term in terms}} for loss in shown]

    def picture_image(self) -> Image:
        """Fetch the picture, RGB.

        Raises:
            ArtifactNotFetchedError: The result does not know where to fetch it.
            ArtifactExpiredError: It has outlived its time in the store.
        """
        with images_extra():
            from visionpipe.drawing.files import decode

        return decode(self.read(self.picture, "picture"))

    def draw(self, image: Picture | None = None, *, max_side_px: int | None = None) -> Image:
        """Give the picture itself; the image it was made of is not needed. Errors as ``picture_image``."""
        made = self.picture_image()
        if max_side_px is not None and max(made.size) > max_side_px:
            made.thumbnail((max_side_px, max_side_px))
        return made
