"""Redis is killed, connections are cut or go silent: worker and client go on, and the accounts stay right."""

import json
import os
import shutil
import signal
import threading
import time

import pytest
import redis as redis_py

from tests.faults.forge import CALM, wait_for
from tests.faults.probe_model import picture
from tests.faults.proxy import proxy
from visionpipe.client import Client
from visionpipe.embedded import ServerFacts, data_folder, embedded_redis
from visionpipe.errors import QueueFullError, UnknownJobError
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState
from visionpipe.settings import Settings


def restart(server, *, empty=False):
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    time.sleep(0.5)
    if empty:
        for name in ("appendonlydir", "appendonly.aof", "dump.rdb"):
            path = server.log_path.parent / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    server.start()
    assert server.wait_ready(20), server.log_tail()


def test_redis_killed_and_restarted_under_a_worker_and_a_waiting_client(make_stage, redis_server):
    stage = make_stage(redis_server.url)
    stage.worker()
    stage.probe.switch("block", "forward", 3)
    with Client(redis_server.url, settings=stage.settings) as client:
        job = client.submit("classification", [picture(grey) for grey in (1, 2, 3)], model="probe")
        waiting = [stage.submit(grey) for grey in (11, 12)]
        stage.logged("block forward 3")
        # The append-only file is synced once a second.
        time.sleep(1.2)
        died = time.monotonic()
        restart(redis_server)
        stage.probe.switch("block", "forward", 3, on=False)
        results = job.results(timeout=60)
    assert [result.top.label for result in results] == ["1", "2", "3"]
    for other in waiting:
        stage.ended(other)
    jobs = {job.id: [1, 2, 3], waiting[0]: [11], waiting[1]: [12]}
    stage.account("redis kill -9 and restart", jobs, faults=1, recovered_s=time.monotonic() - died)


def test_an_embedded_redis_killed_under_a_worker_comes_back_with_its_jobs(make_stage, tmp_path):
    with embedded_redis(Settings(data_dir=tmp_path)) as url:
        stage = make_stage(url)
        stage.worker()
        stage.probe.switch("block", "forward", 2)
        with Client(url, settings=stage.settings) as client:
            jobs = [client.submit("classification", list(map(picture, some)), model="probe") for some in ([1, 2], [3])]
            stage.logged("block forward 2")
            facts = ServerFacts.read(data_folder(tmp_path))
            os.kill(facts.server, signal.SIGKILL)
            died = time.monotonic()
            stage.probe.switch("block", "forward", 2, on=False)
            assert [len(job.results(timeout=60)) for job in jobs] == [2, 1]
        recovered_s = time.monotonic() - died
        books = {jobs[0].id: [1, 2], jobs[1].id: [3]}
        stage.account("embedded redis kill -9", books, faults=1, recovered_s=recovered_s)


def test_jobs_lost_with_an_emptied_redis_are_told_and_may_be_submitted_again(make_stage, redis_server):
    stage = make_stage(redis_server.url)
    stage.worker()
    stage.probe.switch("block", "forward", 3)
    told = {"model": "probe", "wait_for_worker": True}
    with Client(redis_server.url, settings=stage.settings) as client:
        wanted = {"running": [1, 2, 3], "waiting": [4, 5]}
        jobs = [client.submit("classification", list(map(picture, wanted[name])), job=name, **told) for name in wanted]
        stage.logged("block forward 3")
        died = time.monotonic()
        restart(redis_server, empty=True)
        for job in jobs:
            with pytest.raises(UnknownJobError):
                job.wait(timeout=60)
        stage.probe.switch("block", "forward", 3, on=False)
        again = [client.submit("classification", list(map(picture, wanted[name])), job=name, **told) for name in wanted]
        assert [len(job.results(timeout=60)) for job in again] == [3, 2]
    stage.account("redis emptied", wanted, faults=1, emptied=True, recovered_s=time.monotonic() - died)


def test_a_stream_goes_on_after_redis_was_emptied(make_stage, redis_server):
    stage = make_stage(redis_server.url)
    stage.worker()
    stage.probe.switch("block", "forward", 10)
    numbers = list(range(1, 61))
    items = []

    def stream() -> None:
        with Client(redis_server.url, settings=stage.settings) as client:
            items.extend(client.map("classification", map(picture, numbers), model="probe", chunk=10))

    thread = threading.Thread(target=stream)
    thread.start()
    stage.logged("block forward 10")
    restart(redis_server, empty=True)
    stage.probe.switch("block", "forward", 10, on=False)
    thread.join()
    assert [item.result.top.label for item in items] == [str(number % 10) for number in numbers]
    assert set(stage.probe.all_executions().values()) <= {1, 2}


@pytest.mark.parametrize("pause_s", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_a_pause_as_of_a_failover_loses_nothing(stage, pause_s):
    stage.worker()
    stage.probe.each("seconds", 0.01)
    numbers = list(range(1, 201))
    with Client(stage.redis_url, settings=stage.settings) as client:
        waiting = [client.submit("classification", picture(300 + i), model="probe") for i in range(3)]
        found = client.map("classification", map(picture, numbers), model="probe", chunk=10)
        items = [next(found)]
        stage.redis.execute_command("CLIENT", "PAUSE", pause_s * 1000, "ALL")
        paused = time.monotonic()
        items += list(found)
        recovered_s = time.monotonic() - paused
        assert recovered_s > pause_s - 1
        assert [item.result.top.label for item in items] == [str(number % 10) for number in numbers]
        jobs = {job.id: [300 + i] for i, job in enumerate(waiting)}
        for job in waiting:
            job.result(timeout=60)
    executions = stage.probe.all_executions()
    assert max(executions[number] for number in numbers) <= 2
    books = run(stage.redis, calls.accounts())["probe"]
    assert (books.submitted, books.done, books.open) == (203, 203, 0)
    stage.account(
        f"redis paused for {pause_s} s", {**jobs, **jobs_of(stage, numbers)}, faults=1, recovered_s=recovered_s
    )


def jobs_of(stage, numbers, chunk=10):
    """Find the jobs of a stream again, by the records that Redis still has."""
    found = {}
    for key in stage.redis.scan_iter("vp:items:*"):
        job = key.decode().removeprefix("vp:items:")
        labels = [json.loads(text)["result"]["classes"][0]["label"] for text in run(stage.redis, calls.read_items(job))]
        if len(labels) == chunk:
            found[job] = labels
    starts = iter(range(0, len(numbers), chunk))
    order = sorted(found, key=lambda job: run(stage.redis, calls.read(job)).submitted_at)
    return {job: numbers[start : start + chunk] for job, start in zip(order, starts, strict=True)}


def test_a_redis_without_memory_refuses_new_work_and_lets_the_old_end(stage):
    stage.worker()
    stage.probe.switch("block", "forward", 3)
    with Client(stage.redis_url, settings=stage.settings) as client:
        running = client.submit("classification", [picture(grey) for grey in (1, 2, 3)], model="probe")
        stage.logged("block forward 3")
        waiting = client.submit("classification", picture(4), model="probe")
        stage.redis.config_set("maxmemory", stage.redis.info("memory")["used_memory"] - 1000)
        try:
            with pytest.raises(QueueFullError, match="memory limit") as refused:
                client.submit("classification", picture(5), model="probe")
            assert refused.value.details["retry_after_s"] > 0
            # Longer than a lease: renewals, too, must pass.
            time.sleep(2)
            stage.probe.switch("block", "forward", 3, on=False)
            assert [result.top.label for result in running.results(timeout=60)] == ["1", "2", "3"]
            assert waiting.result(timeout=60).top.label == "4"
        finally:
            stage.redis.config_set("maxmemory", 0)
        freed = time.monotonic()
        later = client.submit("classification", picture(5), model="probe")
        assert later.result(timeout=60).top.label == "5"
    jobs = {running.id: [1, 2, 3], waiting.id: [4], later.id: [5]}
    stage.account("redis out of memory", jobs, faults=0, recovered_s=time.monotonic() - freed)


def test_what_waits_in_a_redis_without_memory_is_done_and_keeps_its_artifacts_for_later(stage):
    worker = stage.worker(model="lenet-digits", **CALM)
    told = {"model": "lenet-digits", "lane": "bulk", "wait_for_worker": True}
    with Client(stage.redis_url, settings=stage.settings) as client:
        worker.signal(signal.SIGSTOP)
        plain = [client.submit("classification", picture(grey), **told) for grey in range(5)]
        large = client.submit("embedding", picture(5), options={"as_artifact": True}, **told)
        stage.redis.config_set("maxmemory", 1)
        worker.signal(signal.SIGCONT)
        try:
            assert all(job.result(timeout=60) for job in plain)
            wait_for("an artifact that is refused", lambda: "memory limit" in worker.log())
            assert not large.state().ended
        finally:
            stage.redis.config_set("maxmemory", 0)
        assert large.result(timeout=60).numpy().size
        assert {job.record().attempts for job in [*plain, large]} == {0}
    assert worker.alive


def test_a_worker_that_starts_while_redis_has_no_memory_empties_the_queue(stage):
    jobs = {stage.submit(number, number + 1): [number, number + 1] for number in range(1, 20, 2)}
    stage.redis.config_set("maxmemory", 1)
    try:
        stage.worker(**CALM)
        assert {stage.ended(job).record.state for job in jobs} == {JobState.DONE}
    finally:
        stage.redis.config_set("maxmemory", 0)
    stage.account("worker started, redis out of memory", jobs, faults=0)


def test_every_connection_cut_again_and_again_loses_nothing(stage):
    stage.worker()
    stop = threading.Event()

    def cut() -> None:
        with redis_py.Redis.from_url(stage.redis_url) as scissors:
            while not stop.wait(0.1):
                scissors.client_kill_filter(_type="normal", skipme=True)

    thread = threading.Thread(target=cut)
    thread.start()
    jobs = {}
    try:
        with Client(stage.redis_url, settings=stage.settings) as client:
            for grey in range(1, 31):
                submitted = client.submit("classification", picture(grey), model="probe", wait_for_worker=True)
                jobs[submitted.id] = [grey]
            for job in jobs:
                client.job(job).wait(timeout=60)
    finally:
        stop.set()
        thread.join()
    for job in jobs:
        assert stage.ended(job).record.state is JobState.DONE
    stage.account("all connections cut ten times a second", jobs, faults=2)


@pytest.mark.slow
def test_a_worker_whose_connections_became_black_holes_hears_again_within_40_s(stage):
    with proxy(stage.redis_url) as between:
        stage.worker(redis_url=between.url)
        first = stage.submit(1)
        stage.ended(first)
        assert between.silence() >= 2
        started = time.monotonic()
        later = stage.submit(2)
        stage.ended(later, timeout_s=60)
        waited = time.monotonic() - started
        print(f"\nthe worker heard again after {waited:.1f} s")
        assert waited < 40
        stage.account("black-holed connections", {first: [1], later: [2]}, faults=1, recovered_s=waited)


@pytest.mark.slow
def test_a_job_held_while_the_connections_are_black_holes_has_one_outcome(stage):
    with proxy(stage.redis_url) as between:
        stage.worker(redis_url=between.url)
        stage.probe.switch("block", "forward", 2)
        job = stage.submit(1, 2, 3)
        stage.logged("block forward 2")
        between.silence()
        time.sleep(2)
        stage.probe.switch("block", "forward", 2, on=False)
        # Nobody else sweeps: the worker's own lease has run out when it hears again.
        wait_for("the end", lambda: stage.state(job).ended, 60)
        run(stage.redis, calls.sweep(stage.settings))
        stage.account("black-holed while at work", {job: [1, 2, 3]}, faults=2)
