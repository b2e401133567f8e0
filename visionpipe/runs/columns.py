"""A result as flat columns, for the CSV file and the gallery."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from visionpipe.runs.beside import Beside
from visionpipe.schemas.results.segmented import BACKGROUNDS
from visionpipe.tasks import TASKS

Value = str | int | float | bool | None


class Columns(NamedTuple):
    """The columns that a task's results have."""

    names: list[str]
    """Their headings."""
    values: Callable[[dict[str, Any], Beside], list[Value]]
    """Result, as JSON data, and what lies beside it → one value per heading."""


def columns(task: str, width: int) -> Columns:
    """Choose the columns of a task.

    Args:
        task: The task.
        width: The most classes any result names.
    """
    if task == "classification":
        return _classification(width)
    return _general(task)


def _classification(width: int) -> Columns:
    names = [f"{part}_{rank}" for rank in range(1, width + 1) for part in ("label", "score")]

    def values(result: dict[str, Any], beside: Beside) -> list[Value]:
        flat = [value for entry in result["classes"] for value in (entry["label"], entry["score"])]
        return flat + [None] * (2 * width - len(flat))

    return Columns(names, values)


def _general(task: str) -> Columns:
    fields = [name for name in TASKS[task].result.model_fields if name not in ("task", "image_size_wh")]

    def values(result: dict[str, Any], beside: Beside) -> list[Value]:
        return [beside.summary, *(_flat(_filed(result.get(name), beside.files)) for name in fields)]

    return Columns(["summary", *fields], values)


def _filed(value: Any, files: Mapping[str, str]) -> Any:
    """Put the names of files in the place of artifacts, however deep they lie."""
    if isinstance(value, dict):
        if "media_type" in value and "key" in value:
            return files.get(value["key"], value["key"])
        return {name: _filed(entry, files) for name, entry in value.items()}
    return [_filed(entry, files) for entry in value] if isinstance(value, list) else value


def _flat(value: Any) -> Value:
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def named_scores(result: dict[str, Any], most: int = 5) -> list[tuple[str, float]]:
    """The labels a result names, best first, each with its score (0 to 1); empty for tasks without labels.

    Of attacks it is what the network says of the image itself.
    """
    if result["task"] == "adversarial":
        return [(result["before"]["label"], float(result["before"]["score"]))]
    entries = result.get("classes") or result.get("detections") or []
    # What covers most of a picture is mostly what is no object.
    named = entries if result["task"] != "segmentation" else [entry for entry in entries if not _is_background(entry)]
    scored = [(entry["label"], entry.get("score", entry.get("fraction"))) for entry in named[:most]]
    return [(label, float(score)) for label, score in scored if score is not None]


def _is_background(entry: dict[str, Any]) -> bool:
    return str(entry["label"]).lower() in BACKGROUNDS
