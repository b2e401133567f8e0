"""What is in an image, wherever and however it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from visionpipe.extras import images_extra
from visionpipe.schemas.geometry import QuadXy
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.ranking import Ranking

if TYPE_CHECKING:
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas


class SpatialTransformerResult(Ranking):
    """Where the network looked, and what it saw."""

    SHOWN_ARTIFACT: ClassVar[str | None] = "rectified"

    task: Literal["spatial_transformer"] = "spatial_transformer"
    """Selects this result."""
    theta: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Affine matrix (2, 3) from the rectified image's coordinates to the input's, both (x, y) in [-1, 1]."""
    quad_xy: QuadXy
    """The attended region in pixels of the original image; may reach beyond its borders."""
    rectified: ArtifactRef | None = None
    """PNG of what the classifier saw, when asked for."""

    def rectified_image(self) -> Image:
        """Fetch what the classifier saw.

        Raises:
            InvalidRequestError: It was not asked for, with ``rectified``.
            ArtifactNotFetchedError: The result does not know where to fetch it.
        """
        with images_extra():
            from visionpipe.drawing.files import decode

        return decode(self.read(self.rectified, "rectified picture (option rectified=True)"))

    def _paint(self, canvas: Canvas | None) -> Image:
        from visionpipe.drawing.banner import with_banner
        from visionpipe.drawing.colors import class_color
        from visionpipe.drawing.quads import draw_quad

        scene = self._needed(canvas)
        draw_quad(scene, self.quad_xy, class_color(self.classes[0].class_id if self.classes else 0))
        inset = None if self.rectified is None else self.rectified_image()
        return with_banner(scene.picture, self.banner(), inset=inset)
