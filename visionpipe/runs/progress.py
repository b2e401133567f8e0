"""What a run says about itself while it goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from visionpipe.runs.rows import Counts


class Stage(StrEnum):
    """Where a run is."""

    SCAN = "scan"
    WAIT = "wait"
    SUBMIT = "submit"
    WORK = "work"
    DRAW = "draw"
    WRITE = "write"
    REPORT = "report"


@dataclass(frozen=True)
class RunProgress:
    """One moment of a run."""

    stage: Stage
    """Where it is."""
    counts: Counts
    """Inputs by state."""
    rate: float = 0.0
    """Images a second, lately."""
    workers: int = 0
    """Live workers of the model."""
    note: str = ""
    """One line for people, such as what is waited for."""

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at the present rate."""
        return self.counts.open / self.rate if self.rate > 0 else None


OnProgress = Callable[[RunProgress], None]


@dataclass
class Speed:
    """Images a second over the last moments."""

    span_s: float = 10.0
    _seen: deque[tuple[float, int]] = field(default_factory=deque, init=False)

    def add(self, items: int, now_s: float) -> None:
        """Take note of items that ended at ``now_s``."""
        self._seen.append((now_s, items))
        while self._seen and self._seen[0][0] < now_s - self.span_s:
            self._seen.popleft()

    def rate(self, now_s: float, since_s: float) -> float:
        """Items a second until now; ``since_s`` is when work began."""
        elapsed = min(self.span_s, now_s - since_s)
        return sum(items for _, items in self._seen) / elapsed if elapsed > 0 else 0.0
