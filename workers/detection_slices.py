"""Detection in slices: which pieces a large image is looked at in, and how many at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from models.detectors import Detector, Wanted
from models.detectors.slicing import Gathered, corners, gather
from visionpipe.schemas.requests.detection import Slicing


@dataclass
class SlicedImage:
    """One image in pieces: the whole first, if wanted, since it tells most should the rest be stopped.

    Attributes:
        levels: uint8 (H, W, C).
        wanted: What is wanted of each piece.
        input_size_px: Longer side of the network's input; ``None`` means the network's own.
        boxes: Left, top, right and bottom of each piece.
        parts: What was found in the pieces so far.
    """

    levels: NDArray[Any]
    wanted: Wanted
    input_size_px: int | None
    boxes: list[tuple[int, int, int, int]]
    parts: list[Gathered] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether all pieces were looked at."""
        return len(self.parts) == len(self.boxes)

    def look(self, detector: Detector, num_pieces: int) -> None:
        """Detect in the next pieces, as many as there are of one size."""
        prepared = [self._prepare(detector, box) for box in self.boxes[len(self.parts) :][:num_pieces]]
        batch = [piece for piece in prepared if piece.key == prepared[0].key]
        found = detector.detect(batch, [self.wanted] * len(batch))
        if not all(piece.is_finite for piece in found):
            raise ArithmeticError("the network gave numbers that are not finite")
        first = len(self.parts)
        self.parts += [gather(piece, self.boxes[first + index][:2]) for index, piece in enumerate(found)]

    def _prepare(self, detector: Detector, box: tuple[int, int, int, int]) -> Any:
        left, top, right, bottom = box
        return detector.prepare(self.levels[top:bottom, left:right], self.input_size_px)


def pieces(size_wh: tuple[int, int], slicing: Slicing) -> list[tuple[int, int, int, int]]:
    """Say in which boxes (left, top, right, bottom) an image is looked at; one that fits into a slice is one piece."""
    whole = (0, 0, *size_wh)
    width, height = (min(sides) for sides in zip(size_wh, slicing.size_wh, strict=True))
    slices = [(x, y, x + width, y + height) for x, y in corners(size_wh, slicing.size_wh, slicing.overlap)]
    return [whole, *slices] if slicing.whole_image and len(slices) > 1 else slices
