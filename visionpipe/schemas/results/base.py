"""What the results of all tasks share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, Union

from pydantic import BaseModel, Field, PrivateAttr

from visionpipe.errors import InvalidRequestError
from visionpipe.extras import images_extra
from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import SizeWh
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.printing import as_text
from visionpipe.schemas.results.source import ArtifactSource, Fetch, not_fetched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas

StopReason = Literal["finished", "converged", "time_budget", "deadline", "cancelled"]
"""Why long work ended: all steps done, nothing left to gain, or stopped with the best so far."""

Picture: TypeAlias = Union[str, bytes, "os.PathLike[str]", "Image", "NDArray[np.uint8]"]
"""The image that a result is about: a path, encoded bytes, a PIL image, or an array ``(H, W)`` or ``(H, W, 3)``."""


class Result(Schema):
    """What every result carries."""

    OVERLAY_OPTIONS: ClassVar[dict[str, Any]] = {}
    """Options to ask with where a drawing is wanted."""
    SHOWN_ARTIFACT: ClassVar[str | None] = None
    """Path of the field whose artifact is a picture that people like to see."""

    task: str
    """Which task's result this is."""
    image_size_wh: SizeWh | None = None
    """Width and height of the original image, in pixels, after EXIF orientation; absent where there was no image."""
    partial: bool = False
    """Whether time ran out and this is the best so far."""

    _source: ArtifactSource | None = PrivateAttr(default=None)

    def __str__(self) -> str:
        return as_text(self.summary(), self.rows())

    def summary(self) -> str:
        """Say the result in one line, for people."""
        return f"{self.task} done"

    def rows(self) -> list[dict[str, str]]:
        """The things in the result as a small table for people, one row each; empty where one line says it all."""
        return []

    def shown_artifact(self) -> str | None:
        """Path of the field whose artifact people like to see."""
        return self.SHOWN_ARTIFACT

    def artifacts(self) -> list[tuple[str, ArtifactRef]]:
        """Every large output that the result names, with the path of the field that names it."""
        return list(_artifacts_of(self, ""))

    def bind(self, fetch: Fetch | None) -> Self:
        """Say where artifacts are fetched, such as ``client.artifact``; results that a client gave know it already."""
        self._source = ArtifactSource(fetch)
        return self

    def keep(self, ref: ArtifactRef, data: bytes) -> None:
        """Take the bytes of an artifact that was fetched already."""
        if self._source is None:
            self._source = ArtifactSource(None)
        self._source.keep(ref, data)

    def read(self, ref: ArtifactRef | None, what: str = "") -> bytes:
        """Fetch an artifact that the result names, once; it is kept for later calls.

        Args:
            ref: One of ``artifacts()``.
            what: Its name in errors; with the option that asks for it.

        Raises:
            InvalidRequestError: The result has no such artifact.
            ArtifactNotFetchedError: The result does not know where to fetch it.
            ArtifactExpiredError: It has outlived its time in the store.
        """
        if ref is None:
            raise InvalidRequestError(f"This result has no {what or 'such artifact'}.")
        if self._source is None:
            raise not_fetched(ref, what)
        return self._source.get(ref)

    def draw(self, image: Picture | None = None, *, max_side_px: int | None = None) -> Image:
        """Draw the result over its image.

        Tiny images are enlarged, so that text can be read; lines and text grow with the image.

        Args:
            image: What the result was made of; a file or bytes are turned upright as EXIF says. Only pictures and
                vectors can be drawn without it.
            max_side_px: Longer side of the drawing at most; unset keeps the size of the image.

        Raises:
            ImageError: The image cannot be read, or is not of the result's size.
            InvalidRequestError: There is no image, and the result cannot be drawn without one.
            ArtifactNotFetchedError: The result does not know where to fetch what it draws.
            MissingExtraError: The extra ``images`` is not installed.
        """
        with images_extra():
            from visionpipe.drawing.canvas import open_canvas

            canvas = None if image is None else open_canvas(image, self.image_size_wh, max_side_px=max_side_px)
            return self._paint(canvas)

    def save(self, path: str | os.PathLike[str], image: Picture | None = None) -> None:
        """Write the result as JSON (``.json``), or its drawing in the format of the path's suffix.

        Raises:
            InvalidRequestError: The suffix is of no format known, or as ``draw``.
        """
        name = os.fspath(path)
        if name.lower().endswith(".json"):
            data = self.model_dump_json(indent=2).encode()
        else:
            with images_extra():
                from visionpipe.drawing.files import encode

                data = encode(self.draw(image), name)
        with open(name, "wb") as file:  # noqa: PTH123 - the path may be a string of any kind
            file.write(data)

    def _paint(self, canvas: Canvas | None) -> Image:
        """Draw over the image, if there is one."""
        raise InvalidRequestError(f"A result of {self.task} has nothing to draw.")

    def _needed(self, canvas: Canvas | None) -> Canvas:
        if canvas is None:
            raise InvalidRequestError(
                f"A result of {self.task} is drawn over its image, which it does not hold: pass the image as well."
            )
        return canvas


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
