"""Ask what is in an image, wherever and however it lies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.requests.base import Options, Request


class SpatialTransformerOptions(Options):
    """How to attend and classify."""

    top_k: int = Field(default=5, ge=1, le=100_000)
    """How many classes to name; at most as many as the model knows."""
    rectified: bool = True
    """Whether to store the rectified image: what the classifier saw."""


class SpatialTransformerRequest(Request):
    """Ask for the attended region, its rectified image and its class."""

    task: Literal["spatial_transformer"] = "spatial_transformer"
    """Selects this request."""
    options: SpatialTransformerOptions = Field(default_factory=SpatialTransformerOptions)
    """How to attend and classify."""
