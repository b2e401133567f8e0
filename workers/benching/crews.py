"""Folder runs by more than one worker: what one interpreter leaves idle, several may use."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from visionpipe.errors import VisionPipeError, WorkerStartError
from visionpipe.runs.ceiling import USED_UP
from visionpipe.runs.report import RunReport
from workers.benching.asking import Asked, images_for, typical
from workers.benching.points import CrewRate
from workers.benching.private import Served, Tell
from workers.benching.verdict import WITHIN_WORKERS


def crew_rates(
    asked: Asked, service: Served, runs: Sequence[RunReport], most: int | None, tell: Tell, notes: list[str]
) -> list[CrewRate]:
    """Double the workers for as long as that brings something, where those there are leave the machine idle.

    Args:
        asked: What is asked.
        service: Where; it may have no workers afterwards.
        runs: Folder runs by the workers that there are.
        most: How many workers to try at most; unset: as many as the machine has cores.
        tell: Told in one line of each step.
        notes: Takes why there are not more figures.

    Returns:
        The rate of each number of workers, that of ``runs`` first; none where the workers are not ours.
    """
    if not runs or not service.own:
        return []
    records = service.records()
    if not records:
        notes.append("More workers were not tried: the worker has just gone.")
        return []
    found = [_rate(len(records), runs)]
    ceiling, usage = typical(runs).ceiling, records[0].usage
    if ceiling is None or usage is None or ceiling.share >= USED_UP:
        return found
    try:
        _double(found, asked, service, runs, usage.cores if most is None else most, tell, notes)
    finally:
        # Whatever is measured afterwards has the machine for itself.
        service.dismiss()
    return found


def _double(
    found: list[CrewRate], asked: Asked, service: Served, runs: Sequence[RunReport], most: float, tell: Tell,
    notes: list[str],
) -> None:  # fmt: skip
    number = 2 * found[0].workers
    while number <= most:
        try:
            again = _run(asked, service, number, runs, tell)
        except VisionPipeError as error:
            # What was measured before shall not be lost for what nobody asked for.
            notes.append(f"Folder runs by {number} workers failed: {error.message}")
            break
        if _failing(again) > _failing(runs):
            notes.append(f"More images failed in folder runs by {number} workers: {_failing(again):.1%}.")
            break
        found.append(_rate(number, again))
        if found[-1].images_per_s < (1 + WITHIN_WORKERS) * found[-2].images_per_s:
            break
        number *= 2


def _run(asked: Asked, service: Served, number: int, runs: Sequence[RunReport], tell: Tell) -> Sequence[RunReport]:
    service.hire(number, tell)
    # As many for each worker as the first had.
    images = images_for(runs[-1].found, number)
    tell(f"Folder runs of {images:,} images by {number} workers")
    model = service.contender.model
    # The first is not counted: the new workers have opened nothing yet.
    again = [asked.run_folder(service.settings, model, images) for _ in range(len(runs) + 1)][1:]
    if len(service.records()) != number:
        raise WorkerStartError(f"only {len(service.records())} of them were left at the end.")
    return again


def _failing(runs: Sequence[RunReport]) -> float:
    return sum(run.failed for run in runs) / sum(run.found for run in runs)


def _rate(workers: int, runs: Sequence[RunReport]) -> CrewRate:
    return CrewRate(workers=workers, images_per_s=round(statistics.median(run.images_per_s for run in runs), 3))
