"""What the results of all tasks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, Field

from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import SizeWh
from visionpipe.schemas.images import ArtifactRef

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

    def summary(self) -> str:
        """Say the result in one line, for people."""
        return f"{self.task} done"

    def rows(self) -> list[dict[str, str]]:
        """The things in the result as a small table for people, one row each; empty where one line says it all."""
        return []

    def artifacts(self) -> list[tuple[str, ArtifactRef]]:
        """Every large output that the result names, with the path of the field that names it."""
        return list(_artifacts_of(self, ""))


class ClassScore(Schema):
    """One class and its probability."""

    class_id: int = Field(ge=0)
    """Index into the model's labels."""
    label: str
    """The class's name."""
    score: Score
    """Softmax probability."""

    def __str__(self) -> str:
        return f"{self.label} {self.score:.1%}"

    def row(self) -> dict[str, str]:
        """As a row of a table for people."""
        return {"class": self.label, "score": f"{self.score:.4f}"}


def _artifacts_of(value: object, path: str) -> Iterator[tuple[str, ArtifactRef]]:
    if isinstance(value, ArtifactRef):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _artifacts_of(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _artifacts_of(entry, f"{path}.{index}")
