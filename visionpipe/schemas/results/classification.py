"""What is in an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.results.base import ClassScore, Result


class ClassificationResult(Result):
    """The most probable classes of an image."""

    task: Literal["classification"] = "classification"
    """Selects this result."""
    classes: list[ClassScore] = Field(min_length=1)
    """Most probable first."""

    @property
    def top(self) -> ClassScore:
        """The most probable class."""
        return self.classes[0]

    def summary(self) -> str:
        """Say the result in one line, for people."""
        return ", ".join(map(str, self.classes[:3]))

    def rows(self) -> list[dict[str, str]]:
        """One row per class."""
        return [entry.row() for entry in self.classes]
