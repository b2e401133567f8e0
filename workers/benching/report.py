"""What ``visionpipe bench --json`` writes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from visionpipe.runs.ceiling import Ceiling
from visionpipe.schemas.base import Schema
from workers.benching.measures import BatchTime, ThreadRate
from workers.benching.points import CrewRate, Point
from workers.benching.private import Memory
from workers.benching.verdict import Advice, BareCeiling


class Subject(Schema):
    """What was measured, and where."""

    label: str
    """As it was typed."""
    model: str
    """``name@digest``."""
    task: str
    """What was asked."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The task's options."""
    device: str
    """For example ``cpu`` or ``cuda:0``."""
    device_name: str | None = None
    """Name of the processor or GPU; absent for a worker on another machine."""
    cores: float | None = None
    """Cores that the worker may use; absent where it does not tell."""
    precision: str
    """The arithmetic of the answers."""
    code: str
    """``compiled``, or ``eager`` and why."""
    max_batch: int
    """Largest micro-batch of the worker."""
    decode_threads: int | None = None
    """Of the worker; absent for one that ran already."""
    workers: int = 1
    """How many served the model."""
    own_worker: bool = True
    """Whether it was started for this."""
    version: str
    """VisionPipe's."""
    torch: str | None = None
    """Torch's; absent for a worker that ran already."""


class Pictures(Schema):
    """What was sent."""

    source: str
    """A folder, or ``generated``."""
    different: int
    """How many different ones."""
    mean_bytes: int
    """Their mean size, encoded."""


class FolderPhase(Schema):
    """Folder runs through ``visionpipe batch``'s own code."""

    images: int
    """In each."""
    images_per_s: float
    """Median of the runs."""
    runs: list[float]
    """Images a second of each, in order."""
    failed: int
    """Images that failed in the last."""
    ceiling: Ceiling | None = None
    """What the worker itself told of the median run's costs, as run reports have it."""


class BenchReport(Schema):
    """One model, measured."""

    subject: Subject
    """What was measured, and where."""
    pictures: Pictures | None = None
    """What was sent; absent for requests without pictures."""
    points: list[Point]
    """Single requests, at rising load."""
    folder: FolderPhase | None = None
    """Folder runs; absent where the task takes no pictures."""
    ceiling: BareCeiling | None = None
    """The stages without a queue, beside those runs; absent for a worker elsewhere, and for long work."""
    batches: list[BatchTime] = Field(default_factory=list)
    """The forward pass by size of micro-batch."""
    threads: list[ThreadRate] = Field(default_factory=list)
    """Decoding by number of threads."""
    crews: list[CrewRate] = Field(default_factory=list)
    """Folder runs by number of workers; more than ``subject.workers`` only where those leave the machine idle."""
    advice: Advice = Field(default_factory=Advice)
    """What should be set."""
    memory: Memory
    """What the worker occupies at the end."""
    notes: list[str] = Field(default_factory=list)
    """What is missing, and why."""
    measured_at: float
    """Unix seconds."""


class Ratio(Schema):
    """One measure of two contenders, round by round."""

    what: str
    """What was measured."""
    unit: str
    """In what."""
    more_is_better: bool
    """Whether larger values are better."""
    first: list[float]
    """Of the first contender, in the order of the rounds."""
    second: list[float]
    """Of the second."""
    median: float
    """Median of second / first."""
    low: float
    """Smallest of them."""
    high: float
    """Largest of them."""

    @property
    def shows_a_difference(self) -> bool:
        """Whether every round went the same way."""
        return self.low > 1 or self.high < 1


class CompareReport(Schema):
    """Two contenders, measured in turns."""

    first: Subject
    """One."""
    second: Subject
    """The other."""
    rounds: int
    """How many rounds; each begins with the other contender than the one before."""
    in_flight: int
    """Requests under way while single requests were measured."""
    ratios: list[Ratio]
    """Second against first."""
    measured_at: float
    """Unix seconds."""
