"""What is in an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from visionpipe.extras import images_extra
from visionpipe.schemas.results.ranking import Ranking

if TYPE_CHECKING:
    import supervision as sv
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas


class ClassificationResult(Ranking):
    """The most probable classes of an image."""

    task: Literal["classification"] = "classification"
    """Selects this result."""

    def to_supervision(self) -> sv.Classifications:
        """The classes for supervision's tools."""
        with images_extra():
            import numpy as np
            import supervision as sv

        ids = np.array([entry.class_id for entry in self.classes], dtype=int)
        return sv.Classifications(class_id=ids, confidence=np.array([entry.score for entry in self.classes]))

    def _paint(self, canvas: Canvas | None) -> Image:
        from visionpipe.drawing.banner import with_banner

        return with_banner(self._needed(canvas).picture, self.banner())
