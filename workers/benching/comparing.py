"""Two contenders in one run: both are served all the time, and measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from visionpipe.settings import Settings
from workers.benching.asking import Asked, images_for
from workers.benching.contenders import Contender
from workers.benching.load import Ask, closed_loop
from workers.benching.points import Point
from workers.benching.private import Served, Tell, served
from workers.benching.report import CompareReport, Ratio
from workers.benching.running import Plan, earn, settle, subject_of

if TYPE_CHECKING:
    from models.catalog import Entry

IN_FLIGHT = 8
"""Requests under way unless told otherwise."""


class Side:
    """One contender, and what was seen of it.

    Args:
        asked: What is asked.
        service: Where.
    """

    def __init__(self, asked: Asked, service: Served) -> None:
        self.asked = asked
        self.service = service
        self.points: list[Point] = []
        self.alone: list[Point] = []
        self.runs: list[float] = []

    def load(self, in_flight: int, seconds: float) -> Point:
        """Ask for some time."""

        async def act(ask: Ask) -> Point:
            return await closed_loop(ask, in_flight=in_flight, seconds=seconds)

        return self.asked.drive(self.service.settings, self.service.contender.model, act)

    def round(self, plan: Plan, in_flight: int, images: int) -> None:
        """Measure everything once."""
        self.alone.append(self.load(1, plan.seconds / 2))
        self.points.append(self.load(in_flight, plan.seconds))
        if images:
            report = self.asked.run_folder(self.service.settings, self.service.contender.model, images)
            self.runs.append(report.images_per_s)


def compare(
    contenders: Sequence[Contender], subjects: Sequence[tuple[Entry, Asked]], base: Settings, plan: Plan, tell: Tell
) -> CompareReport:
    """Measure two contenders in turns; each has a Redis and workers of its own.

    Args:
        contenders: Two of them.
        subjects: The card of each, and what is asked of it.
        base: The settings of this command; a Redis named there is not used.
        plan: How to measure; its first load counts.
        tell: Told in one line of each step.
    """
    in_flight = plan.in_flight[0] if plan.in_flight else IN_FLIGHT
    # All workers live at once, and share a GPU.
    private = base.model_copy(update={"redis_url": None, "cuda_workers": sum(one.workers for one in contenders)})
    with ExitStack() as stack:
        sides = [
            Side(asked, stack.enter_context(served(contender, private, asked.folder, tell)))
            for contender, (_, asked) in zip(contenders, subjects, strict=True)
        ]
        images = [_settled(side, in_flight, plan, tell) for side in sides]
        for index in range(max(1, plan.rounds)):
            # Whoever is measured second meets a warmer, or a busier, machine: that is each of them in turn.
            for place in (0, 1) if index % 2 == 0 else (1, 0):
                tell(f"Round {index + 1} of {max(1, plan.rounds)}: {contenders[place].label}")
                sides[place].round(plan, in_flight, images[place])
        first, second = (subject_of(side.service, side.service.records()[0], side.asked) for side in sides)
    return CompareReport(
        first=first,
        second=second,
        rounds=max(1, plan.rounds),
        in_flight=in_flight,
        ratios=ratios(sides, in_flight),
        measured_at=round(time.time(), 3),
    )


def _settled(side: Side, in_flight: int, plan: Plan, tell: Tell) -> int:
    """Send what is not counted, and say how many images a folder run should have."""
    settle(side.asked, side.service)
    earn(side.asked, side.service, tell)
    if not side.asked.pictures:
        return 0
    return images_for(side.load(in_flight, plan.seconds / 4).images_per_s, plan.folder_s)


def ratios(sides: Sequence[Side], in_flight: int) -> list[Ratio]:
    """Set second against first, round by round."""
    first, second = sides
    found = [
        _ratio("one at a time, p50", "ms", [side_points(side.alone, "p50_ms") for side in sides]),
        _ratio(f"{in_flight} in flight, p95", "ms", [side_points(side.points, "p95_ms") for side in sides]),
        _ratio(f"{in_flight} in flight", "images/s", [side_points(side.points, "images_per_s") for side in sides]),
        _ratio("folder run", "images/s", [first.runs, second.runs]),
    ]
    return [one for one in found if one is not None]


def side_points(points: Sequence[Point], what: str) -> list[float]:
    """Read one figure of every point; none where some point has none."""
    values = [getattr(point, what) for point in points]
    return [] if any(value is None for value in values) else values


def _ratio(what: str, unit: str, values: Sequence[Sequence[float]]) -> Ratio | None:
    first, second = values
    if not first or not second or 0 in first:
        return None
    each = [theirs / ours for ours, theirs in zip(first, second, strict=True)]
    return Ratio(
        what=what,
        unit=unit,
        more_is_better=unit != "ms",
        first=list(first),
        second=list(second),
        median=round(statistics.median(each), 4),
        low=round(min(each), 4),
        high=round(max(each), 4),
    )
