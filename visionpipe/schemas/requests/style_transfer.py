"""Ask for an image's content in the style of other images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from visionpipe.schemas.base import Schema
from visionpipe.schemas.images import ImageRef
from visionpipe.schemas.requests.base import Request, SteppedOptions

Weight = Annotated[float, Field(ge=0)]
"""A factor on a term of a loss."""


class Style(Schema):
    """One picture whose style is wanted."""

    image: ImageRef
    """The picture."""
    weight: float = Field(default=1.0, gt=0)
    """Its share among the styles; only the ratio to the other styles matters."""


class StyleTransferOptions(SteppedOptions):
    """How to paint: Gatys et al., 2015."""

    styles: list[Style] = Field(min_length=1, max_length=8)
    """The pictures whose style is wanted."""
    content_weight: Weight = 1.0
    """Weight of the content loss (features differ from the image's)."""
    style_weight: Weight = 100.0
    """Weight of the style loss (Gram matrices differ from the styles')."""
    tv_weight: Weight = 1.0
    """Weight of the total variation, which smooths speckle."""
    content_layers: dict[str, Weight] | None = Field(default=None, min_length=1)
    """Layers of the encoder compared for content, with their weights; unset means the model's own."""
    style_layers: dict[str, Weight] | None = Field(default=None, min_length=1)
    """Layers of the encoder compared for style, with their weights; unset means the model's own."""
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """What moves the pixels."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Step size of the optimizer; unset means 1.0 for ``lbfgs``, 0.02 for ``adam``."""
    steps: int = Field(default=200, ge=1, le=10_000)
    """Evaluations of the loss and its gradient."""
    init: Literal["content", "noise"] = "content"
    """What the optimization starts from."""
    preserve_colour: Literal["no", "luminance", "histogram"] = "no"
    """Keep the content's colours: paint brightness only, or first match the styles' colours to the content's."""
    size_px: int = Field(default=512, ge=64, le=4096)
    """Longer side of the output, in pixels."""
    style_scale: float = Field(default=1.0, gt=0, le=8)
    """Longer side of the styles relative to the output's; larger gives coarser strokes."""
    preview_every: int = Field(default=25, ge=0)
    """Steps between previews in the job's progress; 0 means none."""

    @model_validator(mode="after")
    def _something_to_minimize(self) -> StyleTransferOptions:
        if self.content_weight == 0 and self.style_weight == 0:
            raise ValueError("content_weight and style_weight are both 0: there is nothing to paint")
        return self

    def image_refs(self) -> list[ImageRef]:
        """The style pictures."""
        return [style.image for style in self.styles]


class StyleTransferRequest(Request):
    """Ask for stylised pictures."""

    task: Literal["style_transfer"] = "style_transfer"
    """Selects this request."""
    options: StyleTransferOptions
    """How to paint; at least one style is needed."""
