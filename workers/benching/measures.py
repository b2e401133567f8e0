"""What is measured of a model without a queue, as the process that measures it and the one that asks both know it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from visionpipe.schemas.base import Schema


class Stage(Schema):
    """One stage of the work, by itself."""

    images_per_s: float = Field(ge=0)
    """How many images it does a second, with all it may use."""
    core_ms: float = Field(ge=0)
    """Milliseconds of one core that an image takes."""


class Bare(Schema):
    """Every stage by itself, with nothing beside it."""

    decode: Stage
    """Reading, decoding and preprocessing, in the worker's number of threads."""
    forward: Stage
    """The network, in micro-batches of the worker's size."""
    postprocess: Stage
    """From the network's output to results."""


class BatchTime(Schema):
    """One size of micro-batch."""

    batch: int
    """Images in it."""
    ms: float
    """Its forward pass; the median."""
    runs: int
    """Of how many."""
    images_per_s: float
    """Images a second in such batches."""


class ThreadRate(Schema):
    """One number of decode threads."""

    threads: int
    """How many."""
    images_per_s: float
    """Images a second that they read, decode and preprocess, with nothing beside them."""


class Question(Schema):
    """What the process shall load; the first line it reads."""

    model: str
    """``name@digest``."""
    task: str
    """The task."""
    options: dict[str, Any]
    """Its options."""
    device: str
    """Of the worker."""
    precision: str
    """In which the worker answers."""
    compiled: bool
    """Whether the worker runs compiled code."""
    max_batch: int
    """The worker's largest micro-batch."""
    folder: str
    """Where the pictures lie."""
    num_images: int
    """How many of them to take."""
    seconds: float
    """How long to measure each stage in a round."""
