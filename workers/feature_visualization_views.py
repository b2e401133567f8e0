"""Units as the result tells them: boxes in the original picture, patterns and patches as PNG, all on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from models.cards import Preprocessing
from models.geometry import input_xy_to_original_xy
from models.receptive_field import BoxXYXY
from models.visualization import Peak
from models.visualization.pictures import Pixels, picture
from visionpipe.drawing.sheets import Cell, sheet
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.requests import FeatureVisualizationOptions
from visionpipe.schemas.results import FeatureVisualizationResult, StopReason, UnitView
from workers.encoding import jpeg, png
from workers.work import Work

MAX_PATCH_PX = 512
"""Longer side of a patch at most; a receptive field may be all of a photograph."""
PREVIEW_CELL_PX, PREVIEW_UNITS, PREVIEW_QUALITY = 96, 12, 85
"""Side of a unit in a preview, how many of them, and its JPEG quality."""


@dataclass
class View:
    """One unit, and what there is to see of it."""

    peak: Peak
    box_xyxy: BoxXYXY | None = None
    """Its receptive field, in pixels of the network's input."""
    pattern: Pixels | None = None
    """RGB (H, W, 3)."""
    is_done: bool = False
    """Whether its turn has come."""


def original_box(
    box_xyxy: BoxXYXY | None, size_wh: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float] | None:
    """Map a box of the input into the original picture, cut at its borders; none where nothing is left of it."""
    if box_xyxy is None:
        return None
    corners = np.array(box_xyxy).reshape(2, 2)
    placed = input_xy_to_original_xy(corners, size_wh=size_wh, preprocessing=preprocessing)
    (left, top), (right, bottom) = np.clip(placed, 0, np.array(size_wh)).tolist()
    return (left, top, right, bottom) if right > left and bottom > top else None


def told(work: Work, views: Sequence[View], preprocessing: Preprocessing | None) -> list[UnitView]:
    """Say which units there are; boxes need a preprocessing whose geometry is known."""
    return [
        UnitView(
            layer=view.peak.layer,
            channel=view.peak.channel,
            activation=None if math.isnan(view.peak.activation) else view.peak.activation,
            position_yx=view.peak.position_yx,
            box_xyxy=original_box(view.box_xyxy, work.size_wh, preprocessing)
            if work.size_wh and preprocessing
            else None,
        )
        for view in views
    ]


def answer(
    work: Work,
    views: Sequence[View],
    *,
    preprocessing: Preprocessing | None,
    original: Image.Image | None = None,
    reason: StopReason = "finished",
    steps: int = 1,
) -> FeatureVisualizationResult:
    """Encode and keep the pictures, and make the result; for the finishing threads.

    Args:
        work: Whose.
        views: The units, in order.
        preprocessing: Where the input lies in the original; none where that is not known.
        original: The upright picture that patches are cut out of, where they are wanted.
        reason: Why it ended.
        steps: Device steps made.
    """
    options = options_of(work)
    kept: dict[str, bytes] = {}

    def keep(image: Image.Image) -> ArtifactRef:
        data = png(image)
        ref = work.keep(data, "image/png")
        kept[ref.key] = data
        return ref

    units = []
    for view, unit in zip(views, told(work, views, preprocessing), strict=True):
        pictures = {} if view.pattern is None else {"pattern": keep(picture(view.pattern))}
        if pictures and original is not None and unit.box_xyxy is not None:
            pictures["patch"] = keep(_patch(original, unit.box_xyxy))
        units.append(unit.model_copy(update=pictures))
    result = FeatureVisualizationResult(
        image_size_wh=work.size_wh,
        partial=reason not in ("finished", "converged"),
        method=options.method,
        units=units,
        steps=steps,
        stopped=reason,
    )
    if not options.sheet or not kept:
        return result
    for _, ref in result.artifacts():
        result.keep(ref, kept[ref.key])
    return result.model_copy(update={"sheet": keep(result.draw())})


def preview(views: Sequence[View]) -> bytes:
    """Encode the first units' patterns side by side as a small JPEG."""
    cells: list[Cell] = [
        (picture(view.pattern), str(view.peak.channel)) for view in views[:PREVIEW_UNITS] if view.pattern is not None
    ]
    columns = math.ceil(math.sqrt(len(cells)))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return jpeg(sheet(rows, cell_px=PREVIEW_CELL_PX), quality=PREVIEW_QUALITY)


def options_of(work: Work) -> FeatureVisualizationOptions:
    """The request's options, as what they are."""
    assert isinstance(work.request.options, FeatureVisualizationOptions)
    return work.request.options


def _patch(original: Image.Image, box_xyxy: tuple[float, float, float, float]) -> Image.Image:
    left, top, right, bottom = box_xyxy
    outer = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    cut = original.convert("RGB").crop(outer) if original.mode == "L" else original.crop(outer)
    cut.thumbnail((MAX_PATCH_PX, MAX_PATCH_PX))
    return picture(np.asarray(cut.convert("RGB")))
