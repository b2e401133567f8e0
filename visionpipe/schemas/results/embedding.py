"""An image's feature vector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import Result


class EmbeddingResult(Result):
    """A feature vector, in the result itself or beside it."""

    task: Literal["embedding"] = "embedding"
    """Selects this result."""
    dimensions: int = Field(ge=1)
    """Length of the vector."""
    layer: str
    """Module whose output it is, by its dotted name."""
    normalized: bool
    """Whether the vector was divided by its L2 norm."""
    norm: float = Field(ge=0)
    """The L2 norm before that."""
    vector: list[float] | None = None
    """The features."""
    artifact: ArtifactRef | None = None
    """The features as ``.npy``, shape (dimensions,), float32."""

    @model_validator(mode="after")
    def _one_vector_of_that_length(self) -> EmbeddingResult:
        if (self.vector is None) == (self.artifact is None):
            raise ValueError("an embedding has either a vector or an artifact")
        if self.vector is not None and len(self.vector) != self.dimensions:
            raise ValueError(f"dimensions says {self.dimensions}, the vector has {len(self.vector)}")
        return self

    def summary(self) -> str:
        """Say the result in one line, for people."""
        values = "" if self.vector is None else f": {', '.join(f'{value:.3g}' for value in self.vector[:4])}, ..."
        return f"{self.dimensions} numbers from {self.layer}, norm {self.norm:.3g}{values}"
