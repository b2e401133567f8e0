"""An image that kills its worker is found and left alone; a step that hangs ends its worker and not its job."""

import json
import time

import pytest

from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState, Lane


def supervise(stage, job, timeout_s=60, **env):
    """Start a worker whenever the last one died, as a supervisor would; answers how many it took."""
    worker, deaths, until = stage.worker(**env), 0, time.monotonic() + timeout_s
    while not stage.state(job).ended:
        assert time.monotonic() < until
        if not worker.alive:
            deaths += 1
            run(stage.redis, calls.expire_worker(worker.worker, stage.settings))
            worker = stage.worker(ready=False, **env)
        time.sleep(0.02)
    return deaths


@pytest.mark.parametrize("moment", ["decode", "forward"])
def test_an_image_that_kills_its_worker_is_poison_and_its_31_neighbours_get_results(stage, moment):
    greys = list(range(1, 33))
    stage.probe.switch("kill", moment, 20)
    job = stage.submit(*greys)
    deaths = supervise(stage, job)
    envelope = stage.ended(job)
    assert envelope.record.state is JobState.DONE
    assert deaths == 1 + stage.settings.max_marks
    stage.account(f"poison that kills in {moment}", {job: greys}, faults=deaths, fated=1)
    errors = {item["name"]: item["error"]["code"] for item in map(json.loads, envelope.items) if item["error"]}
    assert errors == {"20": "poison"}
    neighbours = [stage.probe.executions(grey) for grey in greys if grey != 20]
    assert max(neighbours) <= 2, "after the first death neighbours are committed one by one"


def test_other_jobs_of_the_worker_that_poison_killed_are_all_done(stage):
    stage.probe.switch("kill", "forward", 7)
    jobs = {
        stage.submit(*range(low, low + 5), lane=lane): low for low, lane in ((50, Lane.BULK), (60, Lane.INTERACTIVE))
    }
    poisoned = stage.submit(6, 7, 8)
    deaths = supervise(stage, poisoned)
    everything = {job: list(range(low, low + 5)) for job, low in jobs.items()} | {poisoned: [6, 7, 8]}
    for job in everything:
        stage.ended(job)
    stage.account("poison beside innocent jobs", everything, faults=deaths, fated=1)


def test_a_hang_trips_the_watchdog_and_the_job_goes_on_elsewhere(stage):
    stage.probe.switch("hang", "forward", 5)
    greys = [4, 5, 6]
    job = stage.submit(*greys)
    started = time.monotonic()
    deaths = supervise(stage, job, VISIONPIPE_HANG_S="1")
    assert deaths == 1
    assert time.monotonic() - started < 20
    stage.account("a step that hangs", {job: greys}, faults=1)
