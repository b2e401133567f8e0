"""What the requests of all tasks share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from visionpipe.schemas.base import ModelTarget, Schema
from visionpipe.schemas.images import ImageRef

MAX_IMAGES = 4096
"""Images in one job; folder runs send far smaller chunks."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed of every random choice; the same seed, options, model and device give the same answer."""


class Options(Schema):
    """Base of every task's options."""

    def image_refs(self) -> list[ImageRef]:
        """The images that the options themselves name, such as styles or a baseline; they get no item."""
        return []


class SteppedOptions(Options):
    """Options of tasks that take many device steps, report progress and can stop early."""

    seed: Seed = 0
    """Seed of every random choice."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """Seconds of work on one image, after which the best so far is returned, marked partial; unset means no limit."""


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

    @property
    def num_items(self) -> int:
        """How many outcomes the job will have: one per image, or one for a request without images."""
        return max(1, len(self.images))
