"""What an explanation hands over: maps of the original picture as artifacts, and the figures to trust them by."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import attribution as methods
from models.attribution.placing import segments_to_original, to_original
from models.cards import Preprocessing
from visionpipe.drawing.strips import heat_overlay
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results import Attribution, Completeness, SegmentWeight
from workers.encoding import png
from workers.explanation_input import Prepared, options_of
from workers.explanation_run import Found
from workers.work import Work


def keep_attribution(work: Work, found: Found, preprocessing: Preprocessing) -> Attribution:
    """Store the maps of one class."""
    assert work.size_wh is not None
    explained = found.explained
    prepared: Prepared = work.prepared
    attribution_HW = to_original(explained.attribution_HW, work.size_wh, preprocessing)
    work.step_aside()
    overlay = None
    if prepared.picture is not None and options_of(work).overlay:
        overlay = work.keep(png(heat_overlay(prepared.picture, attribution_HW)), "image/png")
    return Attribution(
        target=found.target,
        attribution=work.keep(npy(attribution_HW), "application/x-npy"),
        overlay=overlay,
        segments=segment_weights(explained),
        completeness=completeness(explained),
        surrogate_r2=explained.surrogate_r2,
        standard_error=explained.standard_error,
        note=explained.note,
        **(found.checks.fields() if found.checks is not None else {}),
    )


def keep_segmentation(work: Work, explained: methods.Explained, preprocessing: Preprocessing) -> ArtifactRef | None:
    """Store which superpixel each original pixel belongs to, if there are superpixels."""
    if explained.segments_HW is None:
        return None
    assert work.size_wh is not None
    numbers_HW = segments_to_original(explained.segments_HW, work.size_wh, preprocessing)
    return work.keep(png(numbers_HW), "image/png")


def segment_weights(explained: methods.Explained) -> list[SegmentWeight] | None:
    """List the superpixels, the strongest first; they are counted from 1."""
    weights, errors = explained.weights, explained.weight_errors
    if weights is None or errors is None:
        return None
    return [
        SegmentWeight(
            segment=int(index) + 1,
            weight=float(weights[index]),
            standard_error=float(errors[index]) if np.isfinite(errors[index]) else None,
        )
        for index in np.argsort(-np.abs(weights), kind="stable")
    ]


def completeness(explained: methods.Explained) -> Completeness | None:
    """Say whether the attributions add up, if the method promises it."""
    found = explained.completeness
    if found is None:
        return None
    return Completeness(
        attribution_sum=found.attribution_sum, output_difference=found.output_difference, error=found.error
    )


def npy(array: NDArray[Any]) -> bytes:
    """Write an array as ``.npy``."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
