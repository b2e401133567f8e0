"""The tables of a card that belong to one task each: what the task needs to know of the network."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


class Part(BaseModel):
    """Base of a card and of its tables: unknown fields are refused, and the docstring under a field describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


LayerWeights = dict[str, Annotated[FiniteFloat, Field(ge=0)]]
"""Modules of a network by name, and the weight of each in a loss."""


class SegmentationDefaults(Part):
    """What segmentation needs to know of the network."""

    tile_px: int = Field(default=512, ge=32, le=8192)
    """Side of the overlapping tiles in which larger images are segmented."""
    multiple_px: int = Field(default=1, ge=1, le=1024)
    """The network's input is padded until its sides are multiples of this."""
    background: int = Field(default=0, ge=0)
    """The class that is no object."""
    border: int | None = Field(default=None, ge=0)
    """The class that keeps touching objects apart, if the network has one; its pixels go to the nearest object."""


class DetectionDefaults(Part):
    """What detection needs to know of the network."""

    input_size_px: int | None = Field(default=None, ge=32, le=8192)
    """Side to which images are letterboxed; unset where the network resizes by itself."""
    iou_threshold: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    """Overlap beyond which non-maximum suppression drops the weaker box; unset means the network's own."""
    nms_free: bool = False
    """Use the head that was trained one-to-one and needs no suppression (YOLO v10 and 26); the other is more exact."""


class StyleTransferDefaults(Part):
    """Which layers of the encoder style transfer compares unless told otherwise."""

    content_layers: LayerWeights = Field(min_length=1)
    """For content."""
    style_layers: LayerWeights = Field(min_length=1)
    """For style."""


class EmbeddingDefaults(Part):
    """Where the network's features are taken unless told otherwise."""

    layer: str
    """The module whose output they are, by its dotted name; ``NAME:input`` means what enters it."""


class ReplacedHead(Part):
    """The last layer of a retrained network, in the place of the one that the network is built with."""

    layer: str
    """The module that was replaced, by its dotted name; its successor has one output per label."""
