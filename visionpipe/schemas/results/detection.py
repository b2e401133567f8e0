"""Where things are, and what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from visionpipe.errors import InvalidRequestError
from visionpipe.extras import images_extra
from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import BoxXyxy, Rle, format_pixels
from visionpipe.schemas.results.coco import annotation
from visionpipe.schemas.results.parts import ListResult, Wanted, class_test

if TYPE_CHECKING:
    import numpy as np
    import supervision as sv
    from numpy.typing import NDArray
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas


class Detection(Schema):
    """One thing found."""

    box_xyxy: BoxXyxy
    """Around it, in float pixels of the original image."""
    class_id: int = Field(ge=0)
    """Index into the model's labels."""
    label: str
    """The class's name."""
    score: Score
    """How certain the model is."""
    mask: Rle | None = None
    """Its pixels, from networks that segment instances."""
    proposal: int | None = Field(default=None, ge=0)
    """Index of the proposed box that this one was refined from."""

    def __str__(self) -> str:
        return f"{self.label} {self.score:.1%} at {format_pixels(self.box_xyxy)}"

    @property
    def area_px(self) -> float:
        """Area in pixels of the original image: of the mask where there is one, else of the box."""
        x1, y1, x2, y2 = self.box_xyxy
        return (x2 - x1) * (y2 - y1) if self.mask is None else float(self.mask.area())

    def mask_array(self) -> NDArray[np.bool_]:
        """Decode the mask: shape (H, W) of the original image, bool.

        Raises:
            InvalidRequestError: There is no mask.
            MissingExtraError: The extra ``images`` is not installed.
        """
        if self.mask is None:
            raise InvalidRequestError(
                "This detection has no mask: only networks that segment instances give one, with the option masks=True."
            )
        return self.mask.to_array()


class DetectionResult(ListResult[Detection]):
    """The things found in an image."""

    PARTS: ClassVar[str] = "detections"

    task: Literal["detection"] = "detection"
    """Selects this result."""
    detections: list[Detection]
    """Most certain first."""
    num_slices: int = Field(default=1, ge=1)
    """Pieces the image was looked at in."""

    def summary(self) -> str:
        """Say the result in one line, for people."""
        counts = Counter(found.label for found in self.detections)
        return ", ".join(f"{count} x {label}" for label, count in counts.most_common()) or "nothing found"

    def rows(self) -> list[dict[str, str]]:
        """One row per thing found."""
        return [
            {"class": found.label, "score": f"{found.score:.4f}", "x1 y1 x2 y2": format_pixels(found.box_xyxy)}
            for found in self.detections
        ]

    def filter(
        self,
        *,
        min_score: float = 0.0,
        labels: Wanted | None = None,
        min_area: float = 0.0,
        max_area: float = float("inf"),
        where: Callable[[Detection], bool] | None = None,
    ) -> Self:
        """Keep some of the detections.

        Args:
            min_score: Least score.
            labels: Classes to keep, by label or index.
            min_area: Least area, in pixels of the original image: of the mask where there is one, else of the box.
            max_area: Largest area.
            where: A test of your own.
        """
        fits, sized = class_test(labels), min_area > 0 or max_area < float("inf")
        return self.with_parts(
            found
            for found in self
            if found.score >= min_score
            and fits(found.label, found.class_id)
            and (not sized or min_area <= found.area_px <= max_area)
            and (where is None or where(found))
        )

    def to_coco(
        self, *, image_id: int = 1, first_id: int = 1, category_ids: Mapping[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """Write the detections as COCO does, fit for annotations and for results alike.

        Args:
            image_id: The image's id in the COCO file.
            first_id: Id of the first annotation; the others follow.
            category_ids: Class index → category id; unset means they are the same.
        """
        return [
            annotation(
                first_id + index,
                image_id,
                found.class_id if category_ids is None else category_ids[found.class_id],
                found.box_xyxy,
                score=found.score,
                area=found.area_px,
                mask=found.mask,
            )
            for index, found in enumerate(self.detections)
        ]

    def to_supervision(self) -> sv.Detections:
        """The detections for supervision's tools; masks, where all have one, are an array (N, H, W) of bool."""
        with images_extra():
            from visionpipe.drawing.supervise import detections

        masked = bool(self.detections) and all(found.mask is not None for found in self.detections)
        return detections(
            [found.box_xyxy for found in self.detections],
            [found.class_id for found in self.detections],
            [found.label for found in self.detections],
            scores=[found.score for found in self.detections],
            masks=[found.mask_array() for found in self.detections] if masked else None,
        )

    def _paint(self, canvas: Canvas | None) -> Image:
        from visionpipe.drawing.boxes import draw_boxes
        from visionpipe.drawing.maps import draw_masks

        scene = self._needed(canvas)
        masked = [found for found in self.detections if found.mask is not None]
        draw_masks(scene, [(found.class_id, found.mask_array) for found in sorted(masked, key=_size, reverse=True)])
        draw_boxes(
            scene,
            [found.box_xyxy for found in self.detections],
            [found.class_id for found in self.detections],
            [found.label for found in self.detections],
            [found.score for found in self.detections],
        )
        return scene.picture


def _size(found: Detection) -> float:
    return found.area_px
