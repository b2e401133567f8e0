"""What lies beside an answer as files, and what it says to people; looked up while the outputs are written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionpipe.errors import VisionPipeError
from visionpipe.runs.artifacts import has_artifacts, read_result
from visionpipe.runs.files import ARTIFACTS, MARK, OVERLAYS, artifact_names, overlay_file
from visionpipe.schemas.results import Result


@dataclass(frozen=True)
class Beside:
    """One answer's files, relative to the output folder, and its summary."""

    summary: str = ""
    """The result in one line; empty where the columns say it."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Field of the result → file."""
    files: dict[str, str] = field(default_factory=dict)
    """Key of the artifact → file."""
    overlay: bytes | None = None
    """The drawing."""
    shown: bytes | None = None
    """The picture to look at: the drawing, else an artifact that is one."""


NOTHING = Beside()
"""What lies beside most answers; nobody changes it."""


class Finder:
    """Looks up what lies beside answers.

    Args:
        out: The output folder.
        task: The run's task.
    """

    def __init__(self, out: Path, task: str) -> None:
        self._out = out
        self._task = task
        # A ranking has columns of its own; reading it again would cost more than writing it.
        self._read = task != "classification"
        self._files = has_artifacts(task) and (out / ARTIFACTS / MARK).is_file()
        self._drawn = (out / OVERLAYS / MARK).is_file()

    @property
    def drawn(self) -> bool:
        """Whether drawings were ever asked for."""
        return self._drawn

    def find(self, path: bytes, data: dict[str, Any]) -> Beside:
        """Look up what belongs to one input's result, given as JSON data."""
        overlay = overlay_file(os.fsencode(self._out), path) if self._drawn else None
        if not self._read:
            if overlay is None:
                return NOTHING
            return Beside(overlay=overlay, shown=overlay)
        try:
            result = read_result(self._task, data)
        except (ValueError, VisionPipeError):
            # Another version wrote it; its data is told all the same.
            return Beside(overlay=overlay, shown=overlay)
        artifacts, files = self._artifacts(path, result)
        picture = artifacts.get(result.shown_artifact() or "")
        return Beside(result.summary(), artifacts, files, overlay, overlay or (picture.encode() if picture else None))

    def _artifacts(self, path: bytes, result: Result) -> tuple[dict[str, str], dict[str, str]]:
        if not self._files:
            return {}, {}
        there = {
            field: (ref.key, name)
            for field, (ref, name) in artifact_names(path, result).items()
            if (self._out / name).is_file()
        }
        return {field: name for field, (_, name) in there.items()}, dict(there.values())
