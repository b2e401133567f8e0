"""The page one opens after a run: every answer under its picture, in one file without a server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import IO, Any

from visionpipe.runs.beside import NOTHING, Beside
from visionpipe.runs.labels import Truth
from visionpipe.runs.names import as_text, as_url
from visionpipe.runs.report import RunReport
from visionpipe.runs.rows import InputState, Row

MAX_CARDS = 20_000
"""Cards of each state on the page; more would make a browser sluggish, and the tables have them all."""

_STATES = list(InputState)


@dataclass
class Gallery:
    """Collects the page's cards.

    Args:
        folder: Real path of the images.
        out: Real path of the page; pictures are linked relative to it.
    """

    folder: bytes
    out: bytes
    _cards: list[list[Any]] = field(default_factory=list, init=False)
    _labels: dict[str, int] = field(default_factory=dict, init=False)
    _taken: dict[InputState, int] = field(default_factory=dict, init=False)
    _left_out: int = field(default=0, init=False)

    def add(self, row: Row, scores: Sequence[tuple[str, float]], truth: Truth | None, beside: Beside = NOTHING) -> None:
        """Add one input; beyond ``MAX_CARDS`` of its state it is only counted."""
        taken = self._taken.get(row.state, 0)
        if taken >= MAX_CARDS:
            self._left_out += 1
            return
        self._taken[row.state] = taken + 1
        path = as_text(row.path)
        url = as_url(row.path)
        self._cards.append(
            [
                path,
                0 if url == path else url,
                _STATES.index(row.state),
                [[self._label(label), round(score, 4)] for label, score in scores],
                row.code or "",
                row.message,
                -1 if truth is None else self._label(truth.label),
                beside.summary,
                "" if beside.shown is None else as_url(beside.shown),
            ]
        )

    def _label(self, label: str) -> int:
        return self._labels.setdefault(label, len(self._labels))

    def write(self, page: IO[str], report: RunReport) -> None:
        """Write the page."""
        data = {
            "base": as_url(os.path.relpath(self.folder, self.out)) + "/",
            "states": _STATES,
            "labels": list(self._labels),
            "cards": self._cards,
            "leftOut": self._left_out,
            "report": report.model_dump(mode="json"),
        }
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        # A file may be called "</script>"; inside a script element only this escape keeps it text.
        head, tail = _template().split("/*DATA*/null", 1)
        page.writelines((head, text.replace("<", "\\u003c"), tail))


@cache
def _template() -> str:
    return files("visionpipe.runs").joinpath("gallery.html").read_text(encoding="utf-8")
