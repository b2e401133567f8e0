"""Memory that really runs out: the kernel refuses it to the worker, which goes on with smaller batches."""

import os
import re
import resource
import sys
from pathlib import Path

import pytest

from tests.faults.forge import CALM, wait_for
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits another process's memory")


CHECKED_AT = (0.1, 0.5, 1)
"""Shares of the jobs after which memory is looked at, once their records have expired."""


def leave_room(worker, mib):
    """Refuse a process more than so much memory beyond what it has."""
    has = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (has + mib * 2**20, resource.RLIM_INFINITY))


def batches(stage):
    """Sizes of the batches that were tried, and of those for which there was memory."""
    lines = stage.probe.lines()
    return [[int(line.rpartition(" ")[2]) for line in lines if line.startswith(start)] for start in ("asks for", "had")]


def test_a_batch_that_the_kernel_refuses_memory_is_halved_and_the_cap_remembered(stage):
    worker = stage.worker(**CALM)
    numbers = list(range(1, 33))
    stage.probe.each("mib", 128)
    # Enough for one picture however the heap is cut up, not for a full batch of eight.
    leave_room(worker, 800)
    job = stage.submit(*numbers)
    envelope = stage.ended(job)
    assert (envelope.record.state, envelope.record.attempts) == (JobState.DONE, 0)
    asked, had = batches(stage)
    assert max(asked) == 8
    assert max(had) < 8
    cap = int(re.findall(r"micro-batches are at most (\d)", worker.log())[-1])
    assert cap < 8
    later = list(range(40, 72))
    second = stage.submit(*later)
    stage.ended(second)
    assert max(batches(stage)[0][len(asked) :]) <= cap, "the cap is remembered"
    assert worker.alive
    stage.account("memory refused: halved batches", {job: numbers, second: later}, faults=0)


def test_an_image_for_which_there_is_never_memory_fails_alone_and_the_worker_lives(stage):
    worker = stage.worker(**CALM)
    stage.probe.each("mib", 1024)
    leave_room(worker, 512)
    job = stage.submit(1, 2, 3)
    envelope = stage.ended(job)
    assert all(b"out_of_memory" in text for text in envelope.items)
    stage.probe.each("mib", 0)
    later = stage.submit(4, 5)
    stage.ended(later)
    assert worker.alive
    stage.account("memory refused: even to one", {job: [1, 2, 3], later: [4, 5]}, faults=0, fated=3)


@pytest.mark.timeout(1800)
@pytest.mark.slow
def test_neither_worker_nor_redis_grows_over_fifty_thousand_jobs(stage):
    num_jobs = 50_000
    worker = stage.worker(**CALM)
    settled = stage.settings.model_copy(update={"result_ttl_s": 1})
    stage.settings = settled
    rss_mb: list[float] = []
    used_mb: list[float] = []
    for number in range(1, num_jobs + 1):
        stage.submit(number, job=f"leak-{number}")
        if number % 200 == 0:
            wait_for("the window", lambda number=number: run(stage.redis, calls.accounts())["probe"].open < 200)
        if number / num_jobs in CHECKED_AT:
            wait_for("all so far", lambda: run(stage.redis, calls.accounts())["probe"].open == 0)
            wait_for("expiry", lambda: not list(stage.redis.scan_iter("vp:job:*", count=10_000)))
            rss_mb.append(worker.rss_mb())
            used_mb.append(stage.redis.info("memory")["used_memory"] / 2**20)
    print(
        f"\n{num_jobs} jobs: the worker's resident memory was {rss_mb[0]:.1f} MiB after 10 %, {rss_mb[1]:.1f} after "
        f"50 %, {rss_mb[-1]:.1f} at the end; Redis used {used_mb[0]:.2f}, {used_mb[1]:.2f}, {used_mb[-1]:.2f} MiB"
    )
    books = run(stage.redis, calls.accounts())["probe"]
    assert (books.submitted, books.done) == (num_jobs, num_jobs)
    executions = stage.probe.all_executions()
    assert {executions[number] for number in range(1, num_jobs + 1)} == {1}
    # A leak of 400 bytes a job would be 20 MB over 50,000; arenas and caches fill in the first tenth.
    assert rss_mb[-1] - rss_mb[0] < 16
    assert used_mb[-1] - used_mb[0] < 2
