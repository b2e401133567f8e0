"""Ask for the class of every pixel."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import ClassRef, Score
from visionpipe.schemas.requests.base import Options, Request


class SegmentationOptions(Options):
    """How to segment."""

    classes: list[ClassRef] | None = Field(default=None, min_length=1)
    """Classes to report, by index or label; pixels of others become background. Unset means all."""
    score_threshold: Score = 0.0
    """Pixels whose best class is less probable than this become background."""
    scale: float = Field(default=1.0, gt=0, le=16)
    """Factor on the image's size before the network; the answer is in original pixels all the same."""
    tile_px: int | None = Field(default=None, ge=32, le=8192)
    """Side of the overlapping tiles in the scaled image; unset means the model's own, if the image needs tiles."""
    tile_overlap: float = Field(default=0.25, ge=0, lt=0.9)
    """Share of a tile's side that neighbouring tiles have in common; they are blended over it."""
    instances: bool = True
    """Whether to separate and measure the single objects of each foreground class."""
    min_area_px: int = Field(default=0, ge=0)
    """Objects of fewer original pixels are neither counted nor listed."""
    rle: bool = False
    """Whether each instance carries its mask as COCO RLE."""
    instance_map: bool = False
    """Whether to store a picture whose pixel values are the instances' numbers."""
    probabilities: bool = False
    """Whether to store the probability of every class at every pixel."""


class SegmentationRequest(Request):
    """Ask for a label map, class areas and instances."""

    task: Literal["segmentation"] = "segmentation"
    """Selects this request."""
    options: SegmentationOptions = Field(default_factory=SegmentationOptions)
    """How to segment."""
