"""Few long images of bulk jobs are under way at a time, and those that wait hold nobody up."""

from __future__ import annotations

import time
from typing import Any

from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState, Lane
from workers.engine import MAX_LONG

from .conftest import wait_for

STEPS = 250
"""Of pictures that take so long that none ends by itself meanwhile."""


def slow_jobs(rig: Any, *numbers: int) -> tuple[list[str], list[str]]:
    """Submit bulk jobs of slow pictures; gives them, and the list of those that were prepared."""
    prepared: list[str] = []
    prepare = rig.long.prepare

    def noted(work: Any) -> None:
        prepared.append(work.job.claim.job)
        prepare(work)

    rig.long.prepare, rig.long.pause_s = noted, 0.02
    rig.keeper.start()
    return [rig.submit([STEPS] * number, lane=Lane.BULK, task="explanation") for number in numbers], prepared


def test_no_more_long_images_are_prepared_than_are_soon_wanted(rig: Any) -> None:
    (job,), prepared = slow_jobs(rig, 3 * MAX_LONG)
    wait_for(lambda: len(prepared) == MAX_LONG)
    time.sleep(0.3)
    assert len(prepared) == MAX_LONG
    # Nor do they keep anything else waiting.
    assert rig.answers(rig.submit([7, 8], lane=Lane.BULK)) == [7, 8]
    assert rig.answers(rig.submit([3], task="explanation")) == [3]
    run(rig.redis, calls.cancel(job))
    assert rig.ended(job).record.state is JobState.CANCELLED


def test_a_stopped_job_need_not_wait_for_its_turn(rig: Any) -> None:
    (first, second), prepared = slow_jobs(rig, MAX_LONG, 4)
    wait_for(lambda: len(prepared) == MAX_LONG)
    run(rig.redis, calls.cancel(second))
    assert rig.ended(second).record.state is JobState.CANCELLED
    assert second not in prepared
    assert not rig.envelope(first).record.state.ended
    run(rig.redis, calls.cancel(first))
    rig.ended(first)


def test_images_that_waited_are_all_done_in_the_end(rig: Any) -> None:
    jobs = [rig.submit([4] * (2 * MAX_LONG + 3), lane=Lane.BULK, task="explanation") for _ in range(2)]
    for job in jobs:
        assert rig.answers(job) == [4] * (2 * MAX_LONG + 3)
    assert rig.window.held == 0


def test_a_worker_that_ends_hands_back_what_waits_too(rig: Any) -> None:
    (job,), prepared = slow_jobs(rig, 3 * MAX_LONG)
    wait_for(lambda: len(prepared) == MAX_LONG)
    rig.engine.drain(0.1)
    record = rig.envelope(job).record
    assert (record.state, record.attempts) == (JobState.QUEUED, 0)
    assert rig.window.held == 0
