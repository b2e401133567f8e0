"""Detections as supervision holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import supervision as sv
from numpy.typing import NDArray


def detections(
    boxes_xyxy: Sequence[Sequence[float]] | NDArray[np.floating[Any]],
    class_ids: Sequence[int],
    labels: Sequence[str],
    *,
    scores: Sequence[float] | None = None,
    masks: Sequence[NDArray[np.bool_]] | None = None,
) -> sv.Detections:
    """Make ``supervision.Detections``.

    Args:
        boxes_xyxy: Shape (N, 4).
        class_ids: N class indices.
        labels: N class names; they are found as ``detections["class_name"]``.
        scores: N values 0 to 1.
        masks: N of shape (H, W).
    """
    count = len(class_ids)
    return sv.Detections(
        xyxy=np.asarray(boxes_xyxy, dtype=np.float32).reshape(count, 4),
        mask=None if masks is None else np.stack(list(masks)),
        confidence=None if scores is None else np.asarray(scores, dtype=np.float32),
        class_id=np.asarray(class_ids, dtype=int),
        data={"class_name": np.array(list(labels), dtype=str)},
    )
