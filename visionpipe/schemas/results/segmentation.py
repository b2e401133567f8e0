"""The class of every pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from visionpipe.errors import InvalidRequestError
from visionpipe.extras import images_extra
from visionpipe.schemas.geometry import Rle, format_pixels
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.coco import annotation
from visionpipe.schemas.results.parts import ListResult, Wanted, class_test
from visionpipe.schemas.results.segmented import SegmentedClass, SegmentedInstance

if TYPE_CHECKING:
    import numpy as np
    import supervision as sv
    from numpy.typing import NDArray
    from PIL.Image import Image

    from visionpipe.drawing.banner import Line
    from visionpipe.drawing.canvas import Canvas


class SegmentationResult(ListResult[SegmentedInstance]):
    """A label map with its classes and instances."""

    PARTS: ClassVar[str] = "instances"
    OVERLAY_OPTIONS: ClassVar[dict[str, Any]] = {"instance_map": True}

    task: Literal["segmentation"] = "segmentation"
    """Selects this result."""
    label_map: ArtifactRef
    """Grey PNG of the original size; the pixel values are class indices (8 bit, or 16 above 256 classes)."""
    classes: list[SegmentedClass] = Field(min_length=1)
    """The classes that occur, largest first."""
    instances: list[SegmentedInstance] | None = None
    """The single objects, largest first; absent when not asked for."""
    instance_map: ArtifactRef | None = None
    """Grey 16-bit PNG of the original size; 0 is none, other values are ``instance_id``."""
    probabilities: ArtifactRef | None = None
    """``.npy`` of shape (classes, H, W), float16, values 0-1, in the original size."""
    num_tiles: int = Field(default=1, ge=1)
    """Pieces the image was segmented in."""

    def parts(self) -> list[SegmentedInstance]:
        """The objects.

        Raises:
            InvalidRequestError: They were not asked for, with the option ``instances``.
        """
        if self.instances is None:
            raise InvalidRequestError("This result has no single objects: ask with instances=True.")
        return self.instances

    def summary(self) -> str:
        """Say the result in one line, for people."""
        shares = ", ".join(f"{entry.label} {entry.fraction:.1%}" for entry in self.classes) or "no class"
        return shares if self.instances is None else f"{shares}; {_objects(len(self.instances))}"

    def rows(self) -> list[dict[str, str]]:
        """One row per object, or per class where objects were not asked for."""
        if self.instances is None:
            return [
                {"class": entry.label, "area px": str(entry.area_px), "share": f"{entry.fraction:.2%}"}
                for entry in self.classes
            ]
        return [
            {
                "object": str(found.instance_id),
                "class": found.label,
                "area px": str(found.area_px),
                "centre": format_pixels(found.centroid_xy),
                "x1 y1 x2 y2": format_pixels(found.box_xyxy),
            }
            for found in self.instances
        ]

    def filter(
        self,
        *,
        min_score: float = 0.0,
        labels: Wanted | None = None,
        min_area: float = 0.0,
        max_area: float = float("inf"),
        where: Callable[[SegmentedInstance], bool] | None = None,
    ) -> Self:
        """Keep some of the objects, and with ``labels`` some of the classes; the label map stays as it is.

        Args:
            min_score: Least score; above 0, objects without a score are left out.
            labels: Classes to keep, by label or index.
            min_area: Least area, in pixels of the original image.
            max_area: Largest area.
            where: A test of your own.
        """
        fits = class_test(labels)
        kept = [
            found
            for found in self.instances or []
            if (found.score or 0.0) >= min_score
            and fits(found.label, found.class_id)
            and min_area <= found.area_px <= max_area
            and (where is None or where(found))
        ]
        classes = [entry for entry in self.classes if fits(entry.label, entry.class_id)]
        return self.model_copy(update={"instances": None if self.instances is None else kept, "classes": classes})

    def label_array(self) -> NDArray[np.integer[Any]]:
        """Fetch the label map: shape (H, W) of the original image, uint8 or uint16, values are class indices.

        Raises:
            ArtifactNotFetchedError: The result does not know where to fetch it.
            ArtifactExpiredError: It has outlived its time in the store.
        """
        return self._map(self.label_map, "label map")

    def instance_array(self) -> NDArray[np.integer[Any]]:
        """Fetch the instance map: shape (H, W) of the original image, integers; 0 is none, else ``instance_id``.

        Raises:
            InvalidRequestError: Neither ``instance_map`` nor ``rle`` was asked for.
            ArtifactNotFetchedError: The result does not know where to fetch it.
            ArtifactExpiredError: It has outlived its time in the store.
        """
        if self.instance_map is not None:
            return self._map(self.instance_map, "instance map")
        masked = [found for found in self.instances or [] if found.rle is not None]
        if not masked:
            raise InvalidRequestError("This result has no instance map: ask with instance_map=True or rle=True.")
        with images_extra():
            from visionpipe.drawing.maps import numbered

        return numbered((found.instance_id, found.mask_array()) for found in masked)

    def class_mask(self, label: str | int) -> NDArray[np.bool_]:
        """Fetch the mask of one class, by label or index: shape (H, W), bool; all false for one that does not occur."""
        fits = class_test(label)
        ids = {entry.class_id for entry in self.classes if fits(entry.label, entry.class_id)}
        labels_HW = self.label_array()
        with images_extra():
            import numpy as np

        return np.isin(labels_HW, list(ids))

    def instance_mask(self, instance_id: int) -> NDArray[np.bool_]:
        """Fetch the mask of one object: shape (H, W), bool; errors as ``instance_array``."""
        mask: NDArray[np.bool_] = self.instance_array() == instance_id
        return mask

    def probability_array(self) -> NDArray[np.float16]:
        """Fetch the probabilities: shape (classes, H, W), float16; errors as ``label_array``, or not asked for."""
        with images_extra():
            from visionpipe.drawing.files import load_npy

        return load_npy(self.read(self.probabilities, "probabilities (option probabilities=True)"))

    def to_coco(
        self, *, image_id: int = 1, first_id: int = 1, category_ids: Mapping[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """Write the objects as COCO does, fit for annotations and for results alike; masks where there are any.

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
                area=float(found.area_px),
                mask=found.rle,
            )
            for index, found in enumerate(self._with_masks())
        ]

    def to_supervision(self) -> sv.Detections:
        """The objects for supervision's tools; masks, where asked for, are an array (N, H, W) of bool."""
        with images_extra():
            from visionpipe.drawing.supervise import detections

        found = self._with_masks()
        scored = all(entry.score is not None for entry in found)
        masked = bool(found) and all(entry.rle is not None for entry in found)
        return detections(
            [entry.box_xyxy for entry in found],
            [entry.class_id for entry in found],
            [entry.label for entry in found],
            scores=[entry.score or 0.0 for entry in found] if scored else None,
            masks=[entry.mask_array() for entry in found] if masked else None,
        )

    def _map(self, ref: ArtifactRef, what: str) -> NDArray[np.integer[Any]]:
        with images_extra():
            from visionpipe.drawing.files import decode_map

        return decode_map(self.read(ref, what))

    def _with_masks(self) -> list[SegmentedInstance]:
        found = self.parts()
        if self.instance_map is None or all(entry.rle is not None for entry in found):
            return found
        with images_extra():
            from visionpipe.drawing.maps import encode_instances

        masks = encode_instances(self.instance_array(), [(entry.instance_id, entry.box_xyxy) for entry in found])
        return [
            entry.model_copy(update={"rle": entry.rle or Rle(size_hw=size_hw, counts=counts)})
            for entry, (size_hw, counts) in zip(found, masks, strict=True)
        ]

    def _paint(self, canvas: Canvas | None) -> Image:
        from visionpipe.drawing.banner import with_banner
        from visionpipe.drawing.maps import outline, tint

        scene = self._needed(canvas)
        if self.instances and (self.instance_map or all(found.rle for found in self.instances)):
            values_HW = self.instance_array()
            classes = {found.instance_id: found.class_id for found in self.instances}
        else:
            values_HW = self.label_array()
            classes = {entry.class_id: entry.class_id for entry in self.classes if not entry.is_background}
        tint(scene, values_HW, classes)
        outline(scene, values_HW, classes)
        return with_banner(scene.picture, self._banner())

    def _banner(self) -> list[Line]:
        from visionpipe.drawing.banner import Line
        from visionpipe.drawing.colors import class_color

        counts = Counter(found.class_id for found in self.instances or [])
        drawn = [entry for entry in self.classes if not entry.is_background] or self.classes
        return [
            Line(
                f"{entry.label}  {entry.fraction:.1%}"
                + (f", {_objects(counts[entry.class_id])}" if counts[entry.class_id] else ""),
                None if entry.is_background else class_color(entry.class_id),
                entry.fraction,
            )
            for entry in drawn[:8]
        ]


def _objects(count: int) -> str:
    return f"{count} object{'' if count == 1 else 's'}"
