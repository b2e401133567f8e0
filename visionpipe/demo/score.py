"""Holds a demo's answers against the truth, in one line for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Answered(NamedTuple):
    """One picture's result, as JSON data, and what is true of it."""

    result: dict[str, Any]
    truth: Any
    artifacts: dict[str, Path]
    """Field → file."""


def score(task: str, out: Path, truth: Mapping[str, Any]) -> str:
    """Say how good the results of a run are.

    Args:
        task: What was asked.
        out: The run's output folder.
        truth: File name → a label, a list of labels, a number of objects, or the corners of a square.
    """
    answered = _read(out, truth)
    return _SCORES[task](answered) if answered else "no results"


def _read(out: Path, truth: Mapping[str, Any]) -> list[Answered]:
    with (out / "results.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [
        Answered(row["result"], truth.get(row["path"]), {field: out / name for field, name in row["artifacts"].items()})
        for row in rows
        if row["result"]
    ]


def _labels(answered: Sequence[Answered]) -> str:
    right = sum(entry.result["classes"][0]["label"] == entry.truth for entry in answered)
    return f"{right} of {len(answered)} read right"


def _things(answered: Sequence[Answered]) -> str:
    right = there = found = 0
    for entry in answered:
        told = Counter(thing["label"] for thing in entry.result["detections"])
        right += (told & Counter(entry.truth)).total()
        there += len(entry.truth)
        found += told.total()
    return f"{right} of {there} found and read right, {found - right} too many"


def _objects(answered: Sequence[Answered]) -> str:
    known = [(len(entry.result["instances"]), entry.truth) for entry in answered if entry.truth is not None]
    off = sum(abs(found - there) for found, there in known)
    return f"{sum(found for found, _ in known)} objects told apart of {sum(there for _, there in known)}, off by {off}"


def _neighbours(answered: Sequence[Answered]) -> str:
    import numpy as np

    vectors = np.stack([np.load(entry.artifacts["artifact"]) for entry in answered])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    labels = np.array([entry.truth for entry in answered])
    right = int((labels[similarity.argmax(axis=1)] == labels).sum())
    return f"nearest neighbour has the same label for {right} of {len(answered)}"


def _painted(answered: Sequence[Answered]) -> str:
    losses = [[step["total"] for step in entry.result["losses"]] for entry in answered]
    falls = [1 - min(totals) / totals[0] for totals in losses]
    return f"loss falls by {min(falls):.0%} to {max(falls):.0%}"


def _evidence(answered: Sequence[Answered]) -> str:
    import cv2
    import numpy as np

    inside = covered = 0.0
    for entry in answered:
        speaks_HW = np.load(entry.artifacts["attributions.0.attribution"]).clip(min=0)
        square_HW = np.zeros(speaks_HW.shape, np.uint8)
        cv2.fillConvexPoly(square_HW, np.round(entry.truth).astype(np.int32), 1)
        inside += float(speaks_HW[square_HW > 0].sum() / max(float(speaks_HW.sum()), 1e-12))
        covered += float(square_HW.mean())
    share, area = inside / len(answered), covered / len(answered)
    return f"{share:.0%} of the evidence lies in the digit's square, {area:.0%} of the picture"


def _fooled(answered: Sequence[Answered]) -> str:
    radii = [attack["epsilon"] for attack in answered[0].result["attacks"]]
    right = sum(entry.result["before"]["label"] == entry.truth for entry in answered)
    withstood = [
        sum(not entry.result["attacks"][place]["success"] for entry in answered) for place in range(len(radii))
    ]
    told = ", ".join(f"{count} at {radius * 255:.0f}/255" for radius, count in zip(radii, withstood, strict=True))
    return f"{right} of {len(answered)} read right; under attack {told}"


def _units(answered: Sequence[Answered]) -> str:
    units = [unit for entry in answered for unit in entry.result["units"]]
    shown = sum(unit["pattern"] is not None for unit in units)
    return f"{shown} patterns of {len({unit['channel'] for unit in units})} units"


_SCORES: dict[str, Callable[[Sequence[Answered]], str]] = {
    "classification": _labels,
    "spatial_transformer": _labels,
    "detection": _things,
    "segmentation": _objects,
    "embedding": _neighbours,
    "style_transfer": _painted,
    "explanation": _evidence,
    "adversarial": _fooled,
    "feature_visualization": _units,
}
