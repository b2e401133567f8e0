"""The requests of every task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import ModelTarget, Schema
from visionpipe.schemas.images import ImageRef

MAX_IMAGES = 4096
"""Images in one job; folder runs send far smaller chunks."""


class Options(Schema):
    """Base of every task's options."""


class Request(Schema):
    """What every request carries."""

    task: str
    """What is asked."""
    model: ModelTarget
    """Of which model: ``name`` or ``name@digest``."""
    images: list[ImageRef] = Field(min_length=1, max_length=MAX_IMAGES)
    """The pictures; each gets its own item."""
    deadline_s: float | None = Field(default=None, gt=0)
    """Seconds from submission after which the job expires."""
    options: Options
    """The task's own options."""


class ClassificationOptions(Options):
    """How to classify."""

    top_k: int = Field(default=5, ge=1, le=1000)
    """How many classes to name; at most as many as the model knows."""


class ClassificationRequest(Request):
    """Ask for the most probable classes."""

    task: Literal["classification"] = "classification"
    options: ClassificationOptions = ClassificationOptions()
