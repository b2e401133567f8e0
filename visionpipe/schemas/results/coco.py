"""Single things as COCO's files write them."""

from __future__ import annotations

from typing import Any

from visionpipe.schemas.geometry import BoxXyxy, Rle


def annotation(
    annotation_id: int,
    image_id: int,
    category_id: int,
    box_xyxy: BoxXyxy,
    *,
    score: float | None,
    area: float,
    mask: Rle | None,
) -> dict[str, Any]:
    """Write one thing with the fields of a COCO annotation and of a COCO result.

    The box becomes ``[x, y, width, height]``; a mask is compressed RLE, whose ``counts`` are text, as JSON needs.
    """
    x1, y1, x2, y2 = box_xyxy
    written: dict[str, Any] = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": area,
        "iscrowd": 0,
    }
    if score is not None:
        written["score"] = score
    if mask is not None:
        written["segmentation"] = mask.to_coco()
    return written
