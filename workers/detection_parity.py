"""Whether a detector in reduced precision finds the same things as in fp32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from models.detectors import Detector, Found, Prepared, Wanted

MAX_DELTA_SCORE = 0.04
"""Largest difference in the score of a detection."""
MIN_IOU = 0.85
"""Least overlap of a detection's two boxes; a shift of one pixel in a box of 25."""
SCORE_THRESHOLD = 0.25
"""Detections below matter to nobody unless asked for."""


def agree(exact: Detector, quick: Detector, pictures: Iterable[NDArray[Any]]) -> bool:
    """Whether two detectors find the same in every picture, and anything at all; an exception is a disagreement.

    Args:
        exact: In fp32.
        quick: In the precision in question.
        pictures: uint8 (H, W, C).
    """
    num_found = 0
    try:
        for picture in pictures:
            found = agree_on(exact, quick, exact.prepare(picture))
            if found is None:
                return False
            num_found += found
    except Exception:  # noqa: BLE001 - some operators lack a precision, and say so in many ways
        return False
    return num_found > 0


def agree_on(exact: Detector, quick: Detector, prepared: Prepared) -> int | None:
    """How many things fp32 finds in one input; ``None`` if the other finds others."""
    wanted = [Wanted(SCORE_THRESHOLD - MAX_DELTA_SCORE, masks=False)]
    found = [detector.detect([prepared], wanted)[0] for detector in (exact, quick)]
    if not all(part.is_finite for part in found) or not (_covers(*found) and _covers(*found[::-1])):
        return None
    return len(found[0])


def _covers(one: Found, other: Found) -> bool:
    """Whether every certain detection of one has its twin in the other."""
    certain = one.scores >= SCORE_THRESHOLD
    if not bool(certain.any()):
        return True
    if len(other) == 0:
        return False
    twins = (
        (box_iou(one.boxes_xyxy[certain], other.boxes_xyxy) >= MIN_IOU)
        & (one.class_ids[certain][:, None] == other.class_ids)
        & ((one.scores[certain][:, None] - other.scores).abs() <= MAX_DELTA_SCORE)
    )
    return bool(torch.any(twins, dim=1).all())
