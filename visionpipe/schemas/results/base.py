"""What the results of all tasks share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import SizeWh

StopReason = Literal["finished", "converged", "time_budget", "deadline", "cancelled"]
"""Why long work ended: all steps done, nothing left to gain, or stopped with the best so far."""


class Result(Schema):
    """What every result carries."""

    task: str
    """Which task's result this is."""
    image_size_wh: SizeWh | None = None
    """Width and height of the original image, in pixels, after EXIF orientation; absent where there was no image."""
    partial: bool = False
    """Whether time ran out and this is the best so far."""


class ClassScore(Schema):
    """One class and its probability."""

    class_id: int = Field(ge=0)
    """Index into the model's labels."""
    label: str
    """The class's name."""
    score: Score
    """Softmax probability."""
