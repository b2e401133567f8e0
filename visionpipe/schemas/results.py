"""The results of every task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema


class Result(Schema):
    """What every result carries."""

    task: str
    """Which task's result this is."""
    image_size_wh: tuple[int, int] | None = None
    """Width and height of the original image, in pixels, after EXIF orientation."""
    partial: bool = False
    """Whether time ran out and this is the best so far."""


class ClassScore(Schema):
    """One class and its probability."""

    class_id: int = Field(ge=0)
    """Index into the model's labels."""
    label: str
    """The class's name."""
    score: float = Field(ge=0, le=1)
    """Softmax probability."""


class ClassificationResult(Result):
    """The most probable classes of an image."""

    task: Literal["classification"] = "classification"
    classes: list[ClassScore]
    """Most probable first."""

    @property
    def top(self) -> ClassScore:
        """The most probable class."""
        return self.classes[0]
