"""An image that kills its worker is found and left alone; a step that hangs ends its worker and not its job."""

import json
import time

import pytest

from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState, Lane

AS_SHIPPED = {"VISIONPIPE_LEASE_S": "30", "VISIONPIPE_RENEW_S": "5"}


def supervise(stage, job, timeout_s=120, **env):
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


def errors_of(envelope):
    return {item["name"]: item["error"]["code"] for item in map(json.loads, envelope.items) if item.get("error")}


@pytest.mark.parametrize(("what", "moment"), [("kill", "decode"), ("crash", "forward")])
def test_an_image_that_kills_its_worker_is_poison_and_its_31_neighbours_get_results(stage, what, moment):
    numbers = list(range(1, 33))
    stage.probe.switch(what, moment, 20)
    job = stage.submit(*numbers)
    deaths = supervise(stage, job)
    envelope = stage.ended(job)
    assert envelope.record.state is JobState.DONE
    assert deaths == 1 + stage.settings.max_marks
    # The worker that found it goes on with other work.
    later = stage.submit(40)
    stage.ended(later)
    title = f"poison: {'SIGSEGV' if what == 'crash' else 'SIGKILL'} in {moment}"
    stage.account(title, {job: numbers, later: [40]}, faults=deaths, fated=1)
    assert errors_of(envelope) == {"20": "poison"}
    neighbours = [stage.probe.executions(number) for number in numbers if number != 20]
    assert max(neighbours) <= 2, "after the first death neighbours are committed one by one"


def test_six_poisoned_images_of_a_chunk_are_found_each_and_all_others_get_results(stage):
    numbers, poisoned = list(range(1, 17)), [2, 3, 5, 8, 13, 16]
    for number in poisoned:
        stage.probe.switch("kill", "forward", number)
    job = stage.submit(*numbers)
    deaths = supervise(stage, job)
    envelope = stage.ended(job)
    assert envelope.record.state is JobState.DONE
    assert errors_of(envelope) == dict.fromkeys(map(str, poisoned), "poison")
    assert deaths == 1 + stage.settings.max_marks * len(poisoned)
    stage.account("poison: six images of a chunk", {job: numbers}, faults=2, fated=len(poisoned))


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
    numbers = [4, 5, 6]
    job = stage.submit(*numbers)
    started = time.monotonic()
    assert supervise(stage, job, VISIONPIPE_HANG_S="1") == 1
    stage.account("a step that hangs once", {job: numbers}, faults=1, recovered_s=time.monotonic() - started)


def test_a_step_that_hangs_every_time_ends_as_poison(stage):
    stage.probe.switch("stall", "forward", 5)
    numbers = [4, 5, 6]
    job = stage.submit(*numbers)
    deaths = supervise(stage, job, VISIONPIPE_HANG_S="0.5")
    envelope = stage.ended(job)
    assert (envelope.record.state, errors_of(envelope)) == (JobState.DONE, {"5": "poison"})
    stage.account("a step that always hangs", {job: numbers}, faults=deaths, fated=1)


@pytest.mark.parametrize(
    ("seconds", "env"),
    [
        pytest.param(5, {"VISIONPIPE_LEASE_S": "2"}, id="more than two leases"),
        pytest.param(
            100, {"VISIONPIPE_LEASE_S": "30", "VISIONPIPE_RENEW_S": "5"}, id="defaults", marks=pytest.mark.slow
        ),
    ],
)
@pytest.mark.timeout(300)
def test_a_job_much_longer_than_its_lease_runs_exactly_once(stage, seconds, env):
    workers = [stage.worker(**env) for _ in range(2)]
    stage.probe.each("seconds", seconds)
    job = stage.submit(7)
    stage.logged("forward 7")
    # kombu has let go of the ticket, so that none of its timeouts can bring it back.
    assert not stage.redis.exists("vp:unacked", "vp:unacked_index")
    started = time.monotonic()
    assert stage.ended(job, timeout_s=seconds + 60).record.attempts == 0
    assert time.monotonic() - started > seconds - 1
    assert all(worker.alive for worker in workers)
    stage.account(f"a step of {seconds} s, lease {env['VISIONPIPE_LEASE_S']} s", {job: [7]}, faults=0)
