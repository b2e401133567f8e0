"""An explanation in progress: what it has found, how far it has come, and whether it should stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from models.attribution import Attributor, Explained
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.results import ClassScore, StopReason
from workers.explanation_input import options_of
from workers.work import Work

if TYPE_CHECKING:
    from workers.explanation_checks import Checks

LEAST_SHARE = 0.25
"""Of an equal share of the time, what every stage gets at least."""


@dataclass
class Found:
    """One class, and what was found about it."""

    target: ClassScore
    method: Attributor
    checks: Checks | None = None

    @cached_property
    def explained(self) -> Explained:
        """The best attribution; fitting a surrogate takes a while and needs no device."""
        return self.method.best()


@dataclass
class Run:
    """An explanation in progress.

    Attributes:
        work: The image.
        targets: The classes.
        costs: What each stage is expected to take, in any unit: of each class its attribution, then its checks.
        spent_s: Time on the device.
        stages_done: Attributions and rounds of checks behind it.
        found: What there is to hand over.
        reason: Why it was stopped, if it was.
    """

    work: Work
    targets: list[int]
    costs: list[float]
    spent_s: float = 0.0
    stages_done: int = 0
    found: list[Found] = field(default_factory=list)
    reason: StopReason | None = None

    @property
    def evaluations(self) -> int:
        """Images that went through the network, the first for its answer."""
        checks: list[int] = [found.checks.evaluations for found in self.found if found.checks is not None]
        return 1 + sum(found.method.evaluations for found in self.found) + sum(checks)

    @property
    def halted(self) -> bool:
        """Whether it must hand over now."""
        return self.reason is not None and self.reason != "time_budget"

    def drive(
        self,
        steps: Generator[tuple[int, int], None, Any],
        has_estimate: Callable[[], bool],
        note: Callable[[], str],
        *,
        is_needed: bool = False,
    ) -> Generator[Progress, None, None]:
        """Make device steps until they end, or until there is a reason to stop and something to hand over.

        Args:
            steps: What to do.
            has_estimate: Whether there is something to hand over.
            note: What is being done, for people.
            is_needed: Whether it must be done anyhow, so that stopping it for the budget would save nothing.
        """
        limit_s = math.inf if is_needed else self._limit_s()
        while True:
            reason = self._due(limit_s)
            if reason is not None and has_estimate():
                self.reason = reason
                return
            started = time.monotonic()
            told = next(steps, None)
            self.spent_s += time.monotonic() - started
            if told is None:
                return
            # Once it should stop there will be no second call, and there may be nothing to hand over yet.
            if has_estimate() or not self.work.stopping:
                yield self._progress(*told, note())

    def _limit_s(self) -> float:
        """Give the time at which a stage must end: it has its share of what is left, by the costs that are left."""
        budget_s = options_of(self.work).time_budget_s
        if budget_s is None:
            return math.inf
        left = self._shares[self.stages_done :]
        return self.spent_s + max(0.0, budget_s - self.spent_s) * left[0] / sum(left)

    def _due(self, limit_s: float) -> StopReason | None:
        if self.work.stopping:
            return self.work.stop_reason or "cancelled"
        return "time_budget" if self.spent_s >= limit_s else None

    def _progress(self, done: int, total: int, note: str) -> Progress:
        shares = self._shares
        come = sum(shares[: self.stages_done]) + shares[self.stages_done] * done / max(1, total)
        eta_s = self.spent_s * (1 - come) / come if come else None
        budget_s = options_of(self.work).time_budget_s
        if eta_s is not None and budget_s is not None:
            eta_s = min(eta_s, max(0.0, budget_s - self.spent_s))
        return Progress(done=done, total=total, eta_s=eta_s, note=note)

    @cached_property
    def _shares(self) -> list[float]:
        # No stage is left with nothing: it may well cost more than expected.
        least = LEAST_SHARE * sum(self.costs) / len(self.costs)
        costs = [max(cost, least) for cost in self.costs]
        return [cost / sum(costs) for cost in costs]


def has_checks(work: Work) -> bool:
    """Whether the method itself shall be tested too."""
    options = options_of(work)
    return options.curves or options.sanity_check is not None
