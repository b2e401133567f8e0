"""Ask what the units inside a network respond to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from visionpipe.schemas.base import Schema
from visionpipe.schemas.images import ImageRef
from visionpipe.schemas.requests.base import MAX_IMAGES, Request, SteppedOptions

Channel = Annotated[int, Field(ge=0)]
"""Index of a channel of a layer's output."""

METHODS_WITH_IMAGES = ("deconvnet", "activations")
"""The methods that look at images; the others look at the network alone."""


class Regularization(Schema):
    """What keeps a maximising image looking like an image.

    Weights are held against the gradient of the unit's activation, which is brought to a mean square of 1 per pixel;
    pixels count from 0 (black) to 1.
    """

    l2: float = Field(default=0.05, ge=0)
    """Decay of the pixels towards the mean in each step."""
    tv: float = Field(default=0.15, ge=0)
    """Weight of the total variation."""
    jitter_px: int | None = Field(default=None, ge=0, le=256)
    """Largest random shift before each step, in pixels; unset means a 28th of the image's side."""
    blur_every: int = Field(default=4, ge=0)
    """Steps between blurs; 0 means none."""
    blur_sigma_px: float = Field(default=0.5, gt=0, le=64)
    """Standard deviation of the blur, in pixels."""


class FeatureVisualizationOptions(SteppedOptions):
    """Which units, seen how."""

    method: Literal["activation_maximization", "filters", "deconvnet", "activations"] = "activation_maximization"
    """An image that excites a unit; the first layer's weights as pictures; an activation projected back to pixels
    (Zeiler and Fergus, 2013); or only how strongly and where each image excites each unit, for ranking a folder."""
    layers: list[str] | None = Field(default=None, min_length=1, max_length=256)
    """Modules by their dotted names; unset means the first convolution for ``filters``, else the last one."""
    channels: list[Channel] | None = Field(default=None, min_length=1)
    """Channels of each of those layers; unset means the most excited ones, or the first where there is no image."""
    max_channels: int = Field(default=9, ge=1, le=100_000)
    """How many channels of each layer, when ``channels`` is unset."""
    selection: Literal["strongest", "first"] = "strongest"
    """Which those are, where an image tells: the most excited ones, or the first of the layer whatever the image."""
    patches: bool = True
    """Whether ``deconvnet`` stores the receptive field's crop of the image beside each pattern."""
    sheet: bool = True
    """Whether to store one picture with all units side by side; ``activations`` has none."""
    steps: int = Field(default=256, ge=1, le=100_000)
    """Steps of activation maximisation."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Step size of activation maximisation, as a part of the range from black to white; it shrinks to a tenth."""
    size_px: int | None = Field(default=None, ge=16, le=2048)
    """Side of the maximising image; unset means the network's input."""
    regularization: Regularization = Field(default_factory=Regularization)
    """What keeps the maximising image looking like an image."""


class FeatureVisualizationRequest(Request):
    """Ask for pictures of what units respond to; without images there is one item for the whole request."""

    task: Literal["feature_visualization"] = "feature_visualization"
    """Selects this request."""
    images: list[ImageRef] = Field(default_factory=list, max_length=MAX_IMAGES)
    """The pictures that excite the units; needed by ``deconvnet`` and ``activations``, refused by the other methods."""
    options: FeatureVisualizationOptions = Field(default_factory=FeatureVisualizationOptions)
    """Which units, seen how."""

    @model_validator(mode="after")
    def _images_fit_the_method(self) -> FeatureVisualizationRequest:
        method = self.options.method
        if method in METHODS_WITH_IMAGES and not self.images:
            raise ValueError(f'method "{method}" shows what excites a unit in an image: give at least one image')
        if method not in METHODS_WITH_IMAGES and self.images:
            raise ValueError(f'method "{method}" looks at the network alone: give no images, or another method')
        return self
