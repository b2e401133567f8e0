"""Models whose quality can be compared, with what they cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.cards import Quality, Task
from models.catalog import Entry
from models.errors import UnsupportedOption

Yardstick = tuple[str, str, tuple[str, ...]]
"""Metric, data and labels: figures are comparable where all three are the same."""

FRACTIONS = ("acc", "iou", "map", "AP")
"""Parts of the names of metrics that people read in per cent."""


@dataclass(frozen=True)
class Candidate:
    """One model of a comparison."""

    entry: Entry
    """The model."""
    quality: float
    """In the metric's own unit; more is better."""
    input_hw: tuple[int, int] | None
    """Height and width of its input; ``None`` where it follows the picture."""
    gflops: float | None
    """10^9 multiply-adds for one picture."""
    num_params: int | None
    """Parameters."""
    latency_ms: float | None = None
    """Measured here; ``None`` where it was not."""
    fault: str | None = None
    """Why it cannot be used at the resolution asked for."""
    as_served: bool = False
    """Whether ``visionpipe bench`` measured it: of the network that a worker answers with."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.entry.name

    def with_latency(self, latency_ms: float | None, *, as_served: bool = False) -> Candidate:
        """Give the same with a measured latency."""
        return replace(self, latency_ms=latency_ms, as_served=as_served)


@dataclass(frozen=True)
class Field:
    """All models that one yardstick measures."""

    metric: str
    """What is measured, such as ``acc@1``."""
    data: str
    """On which data."""
    candidates: list[Candidate]
    """The best first."""
    others: list[str]
    """What else models of the task are measured by: ``metric on data``."""

    @property
    def unit(self) -> str:
        """``points`` where people read the metric in per cent, else nothing."""
        return "points" if any(part in self.metric for part in FRACTIONS) else ""


def field_of(entries: Sequence[Entry], task: Task, metric: str | None = None) -> Field:
    """Collect the models of a task that share a yardstick: the one that most of them have, unless a metric is named.

    Raises:
        UnsupportedOption: No model of that task has a published figure, or none in that metric.
    """
    able = [entry for entry in entries if task in entry.card.served_tasks]
    sizes: Counter[Yardstick] = Counter(
        _yardstick(entry, one) for entry in able for one in entry.card.quality if metric in (None, one.metric)
    )
    if not sizes:
        known = sorted({one.metric for entry in able for one in entry.card.quality})
        raise UnsupportedOption(
            f"Expected models for {task} with a published {metric or 'quality'}, found none among {len(able)}. "
            + (f"Their metrics: {', '.join(known)}." if known else "`visionpipe models list` shows what there is."),
            task=task,
        )
    chosen = max(sizes, key=lambda yardstick: sizes[yardstick])
    candidates = [
        _candidate(entry, one) for entry in able for one in entry.card.quality if _yardstick(entry, one) == chosen
    ]
    others = list(dict.fromkeys(f"{name} on {data}" for name, data, labels in sizes if labels != chosen[2]))
    return Field(chosen[0], chosen[1], sorted(candidates, key=lambda one: (-one.quality, one.name)), others)


def _yardstick(entry: Entry, quality: Quality) -> Yardstick:
    return quality.metric, quality.split.partition(",")[0], tuple(entry.card.labels)


def _candidate(entry: Entry, quality: Quality) -> Candidate:
    cost = entry.card.cost
    return Candidate(entry, quality.value, entry.card.preprocess.input_size_hw, cost.gflops, cost.num_params)
