"""One job's life, and ``kill -9`` of its worker after every arrow; another worker takes over without a supervisor."""

import json
import signal
import socket
import time

import pytest

from tests.faults.forge import CALM, wait_for
from tests.faults.proxy import proxy
from visionpipe.queue import calls, keys, run
from visionpipe.queue.scripts import script
from visionpipe.schemas.images import UrlImage
from visionpipe.schemas.jobs import JobState, Lane

GREYS = [1, 2, 3, 4]


def test_killed_before_the_pop_the_ticket_waits_for_the_next(stage):
    stage.worker().kill()
    job = stage.submit(*GREYS)
    stage.worker()
    assert stage.ended(job).record.state is JobState.DONE
    stage.account("killed before the pop", {job: GREYS}, faults=0)


def test_killed_after_the_pop_the_lost_ticket_is_written_again(stage):
    victim = stage.worker()
    time.sleep(0.3)
    victim.signal(signal.SIGSTOP)
    job = stage.submit(*GREYS)
    wait_for("a pop into the stopped worker", lambda: stage.redis.llen(keys.lane_list("probe", Lane.BULK)) == 0)
    assert stage.state(job) is JobState.QUEUED
    victim.kill()
    stage.worker()
    assert stage.ended(job).record.attempts == 0
    stage.account("killed after the pop, ticket lost", {job: GREYS}, faults=0)


def test_killed_after_the_claim_the_lease_brings_the_job_back(stage):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = UrlImage(url=f"http://127.0.0.1:{silent.getsockname()[1]}/x.png", name="x")
        victim = stage.worker(VISIONPIPE_URL_ALLOW_PRIVATE="true", VISIONPIPE_URL_TIMEOUT_S="60")
        job = stage.submit(refs=[url])
        connection, _ = silent.accept()
        assert stage.state(job) is JobState.RUNNING
        victim.kill()
        connection.close()
    stage.worker(VISIONPIPE_URL_ALLOW_PRIVATE="true", VISIONPIPE_URL_TIMEOUT_S="0.5")
    assert stage.ended(job).record.attempts == 1
    assert b"url" in run(stage.redis, calls.read_items(job))[0]
    stage.account("killed after the claim, while fetching", {job: [200]}, faults=1, fated=1)


@pytest.mark.parametrize(
    ("moment", "in_the_network"),
    [("decode", 0), ("forward", 1), ("forwarded", 1)],
    ids=["while decoding", "in the forward pass", "after the forward pass, before the commit"],
)
def test_killed_at_work_the_lease_brings_the_job_back(stage, moment, in_the_network):
    victim = stage.worker()
    stage.probe.switch("block", moment, 3)
    job = stage.submit(*GREYS)
    stage.logged(f"block {moment} 3")
    assert stage.probe.executions(3) == in_the_network
    other = stage.worker()
    victim.kill()
    died = time.monotonic()
    stage.probe.switch("block", moment, 3, on=False)
    envelope = stage.ended(job)
    assert (envelope.record.state, envelope.record.attempts) == (JobState.DONE, 1)
    assert envelope.record.worker == other.worker
    stage.account(f"killed at {moment}", {job: GREYS}, faults=1, recovered_s=time.monotonic() - died)


@pytest.mark.parametrize(
    ("share", "again"), [(0.5, 1), (1.0, 0)], ids=["half of the commit sent", "the whole commit sent, no answer heard"]
)
def test_killed_while_writing_the_result(stage, share, again):
    with proxy(stage.redis_url) as between:
        victim = stage.worker(redis_url=between.url)
        first = stage.submit(9)
        stage.ended(first)
        between.break_off(script("commit").sha.encode(), share)
        job = stage.submit(*GREYS)
        assert between.broken_off.wait(60)
        victim.kill()
        died = time.monotonic()
        stage.worker()
        assert stage.ended(job).record.attempts == again
    title = f"killed while writing, {share:.0%} sent"
    stage.account(title, {first: [9], job: GREYS}, faults=1, recovered_s=time.monotonic() - died)
    assert {stage.probe.executions(grey) for grey in GREYS} == {1 + again}


def test_stopped_at_work_and_killed_once_another_has_taken_over(stage):
    victim = stage.worker()
    stage.probe.switch("block", "forward", 3)
    job = stage.submit(*GREYS)
    stage.logged("block forward 3")
    victim.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    stage.probe.switch("block", "forward", 3, on=False)
    stage.worker()
    stage.ended(job)
    recovered_s = time.monotonic() - stopped
    victim.kill()
    stage.account("SIGSTOP at work, then SIGKILL", {job: GREYS}, faults=1, recovered_s=recovered_s)


def test_a_drained_worker_finishes_what_runs_and_leaves_what_waits(stage):
    drained = stage.worker(**CALM)
    stage.probe.switch("block", "forward", 3)
    held = {stage.submit(*GREYS): GREYS} | {stage.submit(grey): [grey] for grey in range(20, 30)}
    stage.logged("block forward 3")
    wait_for("claims", lambda: not stage.redis.exists(keys.lane_list("probe", Lane.BULK)))
    drained.signal(signal.SIGTERM)
    wait_for("the drain to begin", lambda: "draining" in drained.log())
    waiting = {stage.submit(grey): [grey] for grey in range(30, 35)}
    stage.probe.switch("block", "forward", 3, on=False)
    wait_for("the end of the drained worker", lambda: not drained.alive)
    assert {stage.state(job) for job in held} == {JobState.DONE}
    assert {stage.state(job) for job in waiting} == {JobState.QUEUED}
    stage.worker()
    assert {stage.ended(job).record.attempts for job in waiting} == {0}
    stage.account("SIGTERM, jobs running and waiting", held | waiting, faults=0)


@pytest.mark.slow
def test_a_worker_that_cannot_finish_in_time_hands_back_without_an_attempt(stage):
    drained = stage.worker(VISIONPIPE_DRAIN_S="0.3")
    stage.probe.switch("block", "forward", 3)
    jobs = {stage.submit(*GREYS): GREYS}
    stage.logged("block forward 3")
    jobs |= {stage.submit(grey): [grey] for grey in range(20, 30)}
    drained.signal(signal.SIGTERM)
    wait_for("the end of the drained worker", lambda: not drained.alive)
    stage.probe.switch("block", "forward", 3, on=False)
    stage.worker()
    assert {stage.ended(job).record.attempts for job in jobs} == {0}
    stage.account("SIGTERM, no time to finish", jobs, faults=1)


def test_killed_after_a_partial_commit_only_the_rest_is_done_again(stage):
    victim = stage.worker()
    stage.probe.switch("block", "decode", 99)
    stage.probe.switch("block", "decode", 98)
    greys = [*GREYS, 98, 99]
    job = stage.submit(*greys)
    # Finished items of an unfinished job are committed after two seconds, with the next that finishes.
    time.sleep(2.2)
    stage.probe.switch("block", "decode", 98, on=False)
    wait_for("a partial commit", lambda: len(run(stage.redis, calls.read_items(job))) >= 4)
    committed = {int(label) for label in _labels(stage, job)}
    victim.kill()
    stage.probe.switch("block", "decode", 99, on=False)
    stage.worker()
    stage.ended(job)
    stage.account("killed after a partial commit", {job: greys}, faults=1)
    assert all(stage.probe.executions(grey) == 1 for grey in committed)


def test_killed_after_the_commit_nothing_is_done_again(stage):
    victim = stage.worker()
    job = stage.submit(*GREYS)
    stage.ended(job)
    victim.kill()
    stage.worker()
    time.sleep(2)
    stage.account("killed after the commit", {job: GREYS}, faults=0)


def test_a_worker_that_slept_through_its_lease_writes_nothing(stage):
    sleeper = stage.worker()
    stage.probe.switch("block", "forward", 3)
    job = stage.submit(*GREYS)
    stage.logged("block forward 3")
    sleeper.signal(signal.SIGSTOP)
    stage.probe.switch("block", "forward", 3, on=False)
    other = stage.worker()
    assert stage.ended(job).record.worker == other.worker
    before = run(stage.redis, calls.read_items(job))
    sleeper.signal(signal.SIGCONT)
    later = stage.submit(5)
    stage.ended(later)
    wait_for("a word on the lost job", lambda: "held elsewhere" in sleeper.log() or "no longer held" in sleeper.log())
    assert run(stage.redis, calls.read_items(job)) == before
    stage.account("stopped, overtaken, woken", {job: GREYS, later: [5]}, faults=1)


def _labels(stage, job):
    return [json.loads(text)["name"] for text in run(stage.redis, calls.read_items(job))]
