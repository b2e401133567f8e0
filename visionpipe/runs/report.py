"""What a run amounts to: the numbers in ``report.json`` and in the printed summary."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from operator import add
from typing import Any

from pydantic import Field

from visionpipe.runs.ceiling import Ceiling
from visionpipe.runs.names import as_text
from visionpipe.runs.rows import InputState, Row
from visionpipe.schemas.base import Schema
from visionpipe.schemas.jobs import ModelInfo

SLOWEST = 5
WORK_STAGES = ("fetch", "decode", "preprocess", "forward", "postprocess")
WAIT_STAGES = ("queue", "batch_wait")
STAGES = (*WAIT_STAGES, *WORK_STAGES)
_KEYS = tuple(f"{stage}_ms" for stage in STAGES)


class Failure(Schema):
    """Inputs that failed alike."""

    code: str
    """Their error code."""
    count: int
    """How many."""
    example_path: str
    """The first of them."""
    example_message: str
    """What was said about it."""


class Drawn(Schema):
    """The drawings of a run."""

    drawn: int
    """Inputs that have one."""
    failures: list[Failure] = Field(default_factory=list)
    """Those that the last sitting could not draw, by code, most frequent first."""


class SlowInput(Schema):
    """An input that took long."""

    path: str
    """Relative to the folder."""
    work_ms: float
    """Fetch to postprocess, without waiting."""


class Accuracy(Schema):
    """Answers held against true labels."""

    split: str
    """``all``, or one split of the labels."""
    right: int
    """The most probable class is the true one."""
    wrong: int
    """It is another."""
    unanswered: int
    """The input failed."""

    @property
    def share(self) -> float:
        """Right among the answered, 0 to 1."""
        return self.right / max(1, self.right + self.wrong)


class SummaryFile(Schema):
    """A file that tells of the whole run."""

    name: str
    """Relative to the output folder."""
    caption: str
    """What it shows, in one line."""


class Summary(Schema):
    """What a task makes of all results of a run together."""

    title: str
    """What it tells, in one line."""
    rows: list[dict[str, str]] = Field(default_factory=list)
    """A table for people."""
    files: list[SummaryFile] = Field(default_factory=list)
    """Where it is told in full."""
    notes: list[str] = Field(default_factory=list)
    """What is missing, and why."""


class RunReport(Schema):
    """One run over a folder."""

    run: str
    """Id of the run."""
    folder: str
    """What was scanned."""
    task: str
    """What was asked."""
    model: str
    """Of which model, pinned once work began."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The task's options."""
    found: int
    """Inputs named by the scan: ``done + failed + skipped``, and ``open`` while the run goes on."""
    done: int
    """With a result."""
    failed: int
    """With an error."""
    skipped: int
    """Not submitted."""
    open: int = 0
    """Without an outcome so far."""
    failures: list[Failure] = Field(default_factory=list)
    """The failed by code, most frequent first."""
    skips: dict[str, int] = Field(default_factory=dict)
    """The skipped by reason."""
    worked_s: float = Field(ge=0)
    """Seconds of work in all sittings, without scanning and writing."""
    images_per_s: float = Field(ge=0)
    """Outcomes a second of that."""
    ceiling: Ceiling | None = None
    """The rate of the last sitting, held against what its machines could do at best.

    Other sittings may have had other machines. It is that of an earlier one where the workers told too little in the
    last, and absent where they never told enough.
    """
    stage_ms: dict[str, float] = Field(default_factory=dict)
    """Mean milliseconds an image spent in each stage; forward and postprocess are shared by their batch."""
    slowest: list[SlowInput] = Field(default_factory=list)
    """The inputs with the most work."""
    models: list[ModelInfo] = Field(default_factory=list)
    """Which models answered, on which device, in which precision."""
    accuracy: list[Accuracy] = Field(default_factory=list)
    """Answers against labels, where labels were given."""
    overlays: Drawn | None = None
    """The drawings, where some were asked for."""
    summary: Summary | None = None
    """What the task makes of all results together, where it makes something of them."""


@dataclass
class Tally:
    """Collects the report's numbers, one row at a time."""

    states: Counter[InputState] = field(default_factory=Counter)
    failures: dict[str, Failure] = field(default_factory=dict)
    skips: Counter[str] = field(default_factory=Counter)
    _totals: list[float] = field(default_factory=lambda: [0.0] * len(STAGES))
    _timed: int = 0
    _slowest: list[tuple[float, str]] = field(default_factory=list)

    def add(self, row: Row, timings: dict[str, float] | None) -> None:
        """Take one row into account."""
        self.states[row.state] += 1
        if row.state is InputState.SKIPPED:
            self.skips[row.code or ""] += 1
        elif row.state is InputState.FAILED:
            self._fail(row)
        elif timings:
            self._time(as_text(row.path), timings)

    def _fail(self, row: Row) -> None:
        code = row.code or ""
        known = self.failures.get(code)
        self.failures[code] = (
            known.model_copy(update={"count": known.count + 1})
            if known
            else Failure(code=code, count=1, example_path=as_text(row.path), example_message=row.message)
        )

    def _time(self, path: str, timings: dict[str, float]) -> None:
        spent = [timings.get(key, 0.0) for key in _KEYS]
        # Every image of a micro-batch reports what the whole batch took on the device thread: forward and postprocess.
        batch = max(1, timings.get("batch", 1))
        spent[-2:] = spent[-2] / batch, spent[-1] / batch
        self._timed += 1
        self._totals = list(map(add, self._totals, spent))
        slow = (sum(spent[len(WAIT_STAGES) :]), path)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, slow)
        else:
            heapq.heappushpop(self._slowest, slow)

    def stage_ms(self) -> dict[str, float]:
        """Mean milliseconds by stage; empty where no image told."""
        stages = zip(STAGES, self._totals, strict=True)
        return {stage: round(total / self._timed, 4) for stage, total in stages} if self._timed else {}

    def slowest(self) -> list[SlowInput]:
        """The slowest inputs, slowest first."""
        return [SlowInput(path=path, work_ms=round(ms, 3)) for ms, path in sorted(self._slowest, reverse=True)]

    def most_frequent_failures(self) -> list[Failure]:
        """Failures by code, most frequent first."""
        return sorted(self.failures.values(), key=lambda failure: (-failure.count, failure.code))
