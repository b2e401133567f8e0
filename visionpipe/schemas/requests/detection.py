"""Ask where things are, and what they are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from visionpipe.schemas.base import ClassRef, Schema, Score
from visionpipe.schemas.geometry import BoxXyxy, SizeWh
from visionpipe.schemas.requests.base import Options, Request

MAX_PROPOSALS = 10_000
"""Boxes a caller may propose for one image."""


class Slicing(Schema):
    """Cutting a large image into overlapping slices, so that small things stay large enough to be found."""

    size_wh: SizeWh = (640, 640)
    """Width and height of a slice, in original pixels."""
    overlap: float = Field(default=0.2, ge=0, lt=0.9)
    """Share of a slice's side that neighbouring slices have in common."""
    whole_image: bool = True
    """Whether the whole image is looked at as well, for things larger than a slice."""
    merge: Literal["nms", "nmm"] = "nms"
    """How doubles from neighbouring slices end: ``nms`` drops the weaker, ``nmm`` merges their boxes."""
    match_metric: Literal["iou", "ios"] = "iou"
    """What tells doubles: intersection over union, or over the smaller of the two."""
    match_threshold: Score = 0.5
    """Boxes of one class that overlap more than this are one thing."""


class DetectionOptions(Options):
    """How to detect."""

    score_threshold: Score = 0.25
    """Detections less certain than this are left out."""
    iou_threshold: Score | None = None
    """Non-maximum suppression drops the weaker of two boxes that overlap more; unset means the model's own."""
    max_detections: int = Field(default=300, ge=1, le=100_000)
    """At most so many detections per image, best first."""
    classes: list[ClassRef] | None = Field(default=None, min_length=1)
    """Classes to report, by index or label; unset means all."""
    class_agnostic_nms: bool = False
    """Whether boxes of different classes suppress one another."""
    masks: bool = True
    """Whether networks that segment instances return a mask with each box."""
    input_size_px: int | None = Field(default=None, ge=32, le=8192)
    """Side that the network sees the image (or slice) at; unset means the model's own."""
    slicing: Slicing | None = None
    """Cut large images into slices; unset means never."""
    proposals: list[Annotated[list[BoxXyxy], Field(max_length=MAX_PROPOSALS)]] | None = None
    """For each image of the request the boxes to be scored, instead of looking for boxes: Fast R-CNN's setting."""

    @model_validator(mode="after")
    def _proposals_are_not_sliced(self) -> DetectionOptions:
        if self.proposals is not None and self.slicing is not None:
            raise ValueError("give either slicing or proposals: proposed boxes are scored on the whole image")
        return self


class DetectionRequest(Request):
    """Ask for boxes with classes and scores."""

    task: Literal["detection"] = "detection"
    """Selects this request."""
    options: DetectionOptions = Field(default_factory=DetectionOptions)
    """How to detect."""

    @model_validator(mode="after")
    def _proposals_for_each_image(self) -> DetectionRequest:
        proposals = self.options.proposals
        if proposals is not None and len(proposals) != len(self.images):
            raise ValueError(
                f"options.proposals must hold one list of boxes per image: "
                f"{len(self.images)} expected, {len(proposals)} given"
            )
        return self
