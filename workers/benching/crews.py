"""Folder runs by more than one worker: what one interpreter leaves idle, several may use."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from visionpipe.runs.ceiling import USED_UP
from visionpipe.runs.report import RunReport
from workers.benching.asking import Asked
from workers.benching.points import CrewRate
from workers.benching.private import Served, Tell
from workers.benching.verdict import WITHIN_WORKERS


def crew_rates(asked: Asked, service: Served, runs: Sequence[RunReport], tell: Tell) -> list[CrewRate]:
    """Double the workers for as long as that brings something, where those there are leave the machine idle.

    Args:
        asked: What is asked.
        service: Where; it has more workers afterwards.
        runs: Folder runs by the workers that there are.
        tell: Told in one line of each step.

    Returns:
        The rate of each number of workers, that of ``runs`` first; none where the workers are not ours.
    """
    if not runs or not service.own:
        return []
    records = service.records()
    found = [_rate(len(records), runs)]
    ceiling, usage = _typical(runs).ceiling, records[0].usage
    if ceiling is None or usage is None or ceiling.share >= USED_UP:
        return found
    while 2 * found[-1].workers <= usage.cores:
        number, images = 2 * found[-1].workers, runs[-1].found
        tell(f"Starting more workers: {number}")
        service.hire(number, tell)
        model = service.contender.model
        # The first is not counted: the new ones have opened nothing yet.
        again = [asked.run_folder(service.settings, model, images) for _ in range(len(runs) + 1)][1:]
        found.append(_rate(number, again))
        if found[-1].images_per_s < (1 + WITHIN_WORKERS) * found[-2].images_per_s:
            break
    return found


def _rate(workers: int, runs: Sequence[RunReport]) -> CrewRate:
    return CrewRate(workers=workers, images_per_s=round(statistics.median(run.images_per_s for run in runs), 3))


def _typical(runs: Sequence[RunReport]) -> RunReport:
    return sorted(runs, key=lambda run: run.images_per_s)[len(runs) // 2]
