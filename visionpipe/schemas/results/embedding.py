"""An image's feature vector."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Union

from pydantic import Field, model_validator

from visionpipe.errors import InvalidRequestError
from visionpipe.extras import images_extra
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import Picture, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas


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

    def __len__(self) -> int:
        return self.dimensions

    def __bool__(self) -> bool:
        return True

    def values(self) -> Sequence[float]:
        """The features as plain numbers; fetched where they lie beside the result."""
        return self.vector if self.vector is not None else self.numpy().tolist()

    def numpy(self) -> NDArray[np.float32]:
        """The features: shape (dimensions,), float32; fetched where they lie beside the result.

        Raises:
            ArtifactNotFetchedError: The result does not know where to fetch them.
            ArtifactExpiredError: They have outlived their time in the store.
        """
        with images_extra():
            import numpy as np

            from visionpipe.drawing.files import load_npy

        if self.vector is not None:
            return np.array(self.vector, dtype=np.float32)
        return load_npy(self.read(self.artifact, "vector")).astype(np.float32).reshape(-1)

    def cosine(self, other: Union[EmbeddingResult, Sequence[float], NDArray[np.floating]]) -> float:  # noqa: UP007
        """Cosine similarity with another vector, -1 to 1; 0 where one of them is zero.

        Raises:
            InvalidRequestError: The other has another length.
        """
        ours = self.values()
        theirs = other.values() if isinstance(other, EmbeddingResult) else [float(value) for value in other]
        if len(ours) != len(theirs):
            raise InvalidRequestError(
                f"Expected two vectors of one length, got {len(ours)} and {len(theirs)} numbers: "
                "compare embeddings of the same model and layer."
            )
        norms = math.hypot(*ours) * math.hypot(*theirs)
        product = math.fsum(a * b for a, b in zip(ours, theirs, strict=True))
        return 0.0 if norms == 0 else max(-1.0, min(1.0, product / norms))

    def save(self, path: str | os.PathLike[str], image: Picture | None = None) -> None:
        """Write the result as JSON (``.json``), its vector (``.npy``), or its drawing; errors as ``Result.save``."""
        if os.fspath(path).lower().endswith(".npy"):
            vector = self.numpy()
            with images_extra():
                import numpy as np

            np.save(os.fspath(path), vector)
        else:
            super().save(path, image)

    def _paint(self, canvas: Canvas | None) -> Image:
        from PIL import Image as Images

        from visionpipe.drawing.banner import MIN_WIDTH_PX, Line, with_banner
        from visionpipe.drawing.strips import heat_strip

        above = Images.new("RGB", (640, 1)) if canvas is None else canvas.picture
        width = max(MIN_WIDTH_PX, above.width)
        strip = heat_strip(self.numpy(), (width, max(24, width // 12)))
        joined = Images.new("RGB", (width, above.height + strip.height))
        joined.paste(above, ((width - above.width) // 2, 0))
        joined.paste(strip, (0, above.height))
        return with_banner(joined, [Line(f"{self.dimensions} numbers from {self.layer}, norm {self.norm:.3g}")])
