"""Results that are a ranking of classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field

from visionpipe.schemas.results.base import ClassScore
from visionpipe.schemas.results.parts import ListResult, Wanted, class_test

if TYPE_CHECKING:
    from visionpipe.drawing.banner import Line

DRAWN_CLASSES = 5
"""So many classes are written under a picture at most."""


class Ranking(ListResult[ClassScore]):
    """A result that ranks classes; as a sequence, that of the classes."""

    PARTS: ClassVar[str] = "classes"

    classes: list[ClassScore] = Field(min_length=1)
    """Most probable first."""

    @property
    def top(self) -> ClassScore:
        """The most probable class."""
        return self.classes[0]

    def summary(self) -> str:
        """Say the result in one line, for people."""
        return ", ".join(map(str, self.classes[:3])) or "no class"

    def rows(self) -> list[dict[str, str]]:
        """One row per class."""
        return [entry.row() for entry in self.classes]

    def score(self, label: str | int) -> float:
        """Give the probability of a class, by label or index; 0 for one that the result does not name."""
        fits = class_test(label)
        return next((entry.score for entry in self if fits(entry.label, entry.class_id)), 0.0)

    def filter(
        self,
        *,
        min_score: float = 0.0,
        labels: Wanted | None = None,
        where: Callable[[ClassScore], bool] | None = None,
    ) -> Self:
        """Keep some of the classes; there may be none left.

        Args:
            min_score: Least probability.
            labels: Classes to keep, by label or index.
            where: A test of your own.
        """
        fits = class_test(labels)
        return self.with_parts(
            entry
            for entry in self
            if entry.score >= min_score and fits(entry.label, entry.class_id) and (where is None or where(entry))
        )

    def banner(self) -> list[Line]:
        """The classes as lines to write under a picture."""
        from visionpipe.drawing.banner import Line
        from visionpipe.drawing.colors import class_color

        return [
            Line(f"{entry.label}  {entry.score:.1%}", class_color(entry.class_id), entry.score)
            for entry in self.classes[:DRAWN_CLASSES]
        ]
