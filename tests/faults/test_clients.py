"""Clients die, come late, give up a thousand times, or ask for the same thing at the same moment."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from tests.faults.forge import CALM, wait_for
from tests.faults.probe_model import picture
from visionpipe.aclient import AsyncClient
from visionpipe.client import Client
from visionpipe.errors import ArtifactExpiredError, ResultTimeoutError, UnknownJobError
from visionpipe.jobs import AsyncJob
from visionpipe.redis_transport import CONNECTIONS
from visionpipe.schemas.jobs import JobState

DOOMED = """
import sys
from visionpipe.client import Client

url, *paths = sys.argv[1:]
client = Client(url)
job = client.submit("classification", [open(path, "rb").read() for path in paths], model="probe", job="orphan")
print("submitted", flush=True)
job.wait()
"""
REPLIES_LIVE_S = 600
"""What a client that is gone leaves behind: the stream of its replies, for so long after the last."""


def test_a_client_killed_in_mid_job_leaves_its_result_to_whoever_asks(stage, tmp_path):
    stage.worker(**CALM)
    numbers = [1, 2, 3]
    for number in numbers:
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    stage.probe.switch("block", "forward", 2)
    paths = [str(tmp_path / f"{number}.png") for number in numbers]
    command = [sys.executable, "-c", DOOMED, stage.redis_url, *paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "submitted\n"
        stage.logged("block forward 2")
        doomed.send_signal(signal.SIGKILL)
    stage.probe.switch("block", "forward", 2, on=False)
    with Client(stage.redis_url, settings=stage.settings) as other:
        results = other.job("orphan").results(timeout=60)
    assert [result.top.label for result in results] == ["1", "2", "3"]
    streams = list(stage.redis.scan_iter("vp:reply:*"))
    assert all(0 < stage.redis.ttl(stream) <= REPLIES_LIVE_S for stream in streams)
    stage.account("client killed in mid-job", {"orphan": numbers}, faults=0)


def test_a_client_that_closes_leaves_nothing_but_results(stage):
    stage.worker(**CALM)
    with Client(stage.redis_url, settings=stage.settings) as client:
        job = client.submit("classification", picture(5), model="probe")
        job.result(timeout=60)
        assert list(stage.redis.scan_iter("vp:reply:*"))
    assert not list(stage.redis.scan_iter("vp:reply:*"))
    stage.account("client closed", {job.id: [5]}, faults=0)


def test_results_are_read_late_and_told_to_have_expired_when_too_late(stage):
    stage.worker(**CALM)
    brief = stage.settings.model_copy(update={"result_ttl_s": 1.5})
    with Client(stage.redis_url, settings=brief) as client:
        job = client.submit("classification", picture(6), model="probe")
        stage.ended(job.id)
        with Client(stage.redis_url, settings=brief) as late:
            assert late.job(job.id).result(timeout=5).top.label == "6"
        stage.account("result read late", {job.id: [6]}, faults=0)
        wait_for("expiry", lambda: not stage.redis.exists(f"vp:job:{job.id}"))
        with pytest.raises(UnknownJobError, match="outlived its time"):
            client.job(job.id).result(timeout=5)


def test_an_artifact_read_after_its_time_is_told_to_have_expired(stage):
    stage.worker(model="lenet-digits", VISIONPIPE_ARTIFACT_TTL_S="1", **CALM)
    with Client(stage.redis_url, settings=stage.settings) as client:
        told = {"model": "lenet-digits", "options": {"as_artifact": True}}
        job = client.submit("embedding", picture(7), **told)
        result = job.result(timeout=60)
        ((_, ref),) = result.artifacts()
        wait_for("expiry", lambda: not stage.redis.exists(f"vp:{ref.key}"))
        with pytest.raises(ArtifactExpiredError):
            client.artifact(ref)


async def test_a_thousand_timeouts_leave_no_connection_subscription_or_object(stage):
    stage.worker(**CALM)
    stage.probe.switch("block", "forward", 8)
    async with AsyncClient(stage.redis_url, settings=stage.settings) as client:
        job = await client.submit("classification", picture(8), model="probe")
        await asyncio.to_thread(stage.logged, "block forward 8")

        async def give_up() -> None:
            with pytest.raises(ResultTimeoutError):
                await client.job(job.id).wait(timeout=0.1)

        await asyncio.gather(*(give_up() for _ in range(100)))
        before = census(stage) + SLACK
        for _ in range(10):
            await asyncio.gather(*(give_up() for _ in range(100)))
        gc.collect()
        # A waiter may just be reading the record once more.
        assert census(stage) - before == Counter()
        assert len(client._transport.bells) == 0
        stage.probe.switch("block", "forward", 8, on=False)
        assert (await job.result(timeout=60)).top.label == "8"
    stage.account("a thousand timeouts", {job.id: [8]}, faults=0)


SLACK = Counter(connections=CONNECTIONS, keys=3)
"""What comes and goes whatever clients do: connections of a pool up to its bound, marks of the sweep."""


def census(stage):
    """Count what could pile up: connections, keys, tasks and job objects."""
    gc.collect()
    return Counter(
        connections=len(stage.redis.client_list()),
        keys=stage.redis.dbsize(),
        tasks=len(asyncio.all_tasks()),
        jobs=sum(type(thing) is AsyncJob for thing in gc.get_objects()),
    )


def test_two_clients_that_ask_for_the_same_job_at_once_share_one(stage):
    stage.worker(**CALM)
    names = [f"shared-{number}" for number in range(1, 21)]
    start = threading.Barrier(2)
    heard: list[list[str]] = []

    def ask() -> None:
        with Client(stage.redis_url, settings=stage.settings) as client:
            start.wait()
            jobs = [
                client.submit("classification", picture(number), model="probe", job=name)
                for number, name in enumerate(names, 1)
            ]
            heard.append([job.result(timeout=60).top.label for job in jobs])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heard == [[str(number % 10) for number in range(1, 21)]] * 2
    stage.account("two clients, the same jobs", {name: [number] for number, name in enumerate(names, 1)}, faults=0)


def test_a_job_whose_client_gave_up_goes_on_and_a_cancelled_one_does_not(stage):
    stage.worker(**CALM)
    stage.probe.switch("block", "forward", 3)
    with Client(stage.redis_url, settings=stage.settings) as client:
        running = client.submit("classification", [picture(3), picture(4)], model="probe")
        stage.logged("block forward 3")
        waiting = client.submit("classification", picture(5), model="probe", deadline_s=0.2, lane="bulk")
        with pytest.raises(ResultTimeoutError):
            running.wait(timeout=0.2)
        cancelled = client.submit("classification", [picture(6)] * 3, model="probe", lane="bulk")
        cancelled.cancel()
        time.sleep(0.3)
        stage.probe.switch("block", "forward", 3, on=False)
        assert len(running.results(timeout=60)) == 2
        assert cancelled.wait(timeout=60).state in (JobState.CANCELLED, JobState.DONE)
        waiting.wait(timeout=60)
    jobs = {running.id: [3, 4], waiting.id: [5], cancelled.id: [6, 6, 6]}
    executions = stage.probe.executions(6)
    assert executions <= 3
    stage.account("gave up, cancelled, too late", jobs, faults=2)
