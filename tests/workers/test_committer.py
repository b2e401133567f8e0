"""The committer and the drain, on a Redis that may go away."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from visionpipe.errors import QueueUnavailableError
from visionpipe.queue import calls, run
from visionpipe.redis_server import RedisServer
from visionpipe.schemas.jobs import ErrorInfo, JobState, Lane
from visionpipe.settings import Settings
from workers import committer
from workers.persist import run_all
from workers.work import Work


def until(condition: Any, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def take_over(rig: Any, job: str) -> None:
    """Let another worker claim a job that this one still holds."""
    run(rig.redis, calls.expire_worker("w1", rig.settings))
    assert run(rig.redis, calls.claim(job, "w2", "t2", rig.hosted.info, rig.settings)) is not None


def test_outcomes_wait_for_a_redis_that_went_away(make_rig: Any, redis_server: RedisServer, settings: Settings) -> None:
    rig = make_rig(settings={"redis_url": redis_server.url})
    rig.watched.gate.clear()
    job = rig.submit([1, 2, 3])
    until(lambda: rig.watched.batches)
    redis_server.stop()
    rig.watched.gate.set()
    time.sleep(0.5)
    assert rig.engine.held()
    redis_server.start()
    assert redis_server.wait_ready(20)
    assert rig.answers(job) == [1, 2, 3]
    until(lambda: not rig.engine.held())


def test_outcomes_of_a_job_that_another_holds_are_thrown_away(rig: Any) -> None:
    rig.watched.gate.clear()
    job = rig.submit([1, 2])
    until(lambda: rig.watched.batches)
    take_over(rig, job)
    rig.watched.gate.set()
    until(lambda: not rig.engine.held())
    assert rig.envelope(job).items == []
    assert run(rig.redis, calls.commit(job, "t2", [(0, True, b"{}"), (1, True, b"{}")]))
    assert rig.window.held == 0


def test_a_job_that_comes_back_to_its_first_holder_is_done_once(rig: Any) -> None:
    rig.watched.gate.clear()
    job = rig.submit([5])
    until(lambda: rig.watched.batches)
    run(rig.redis, calls.expire_worker("w1", rig.settings))
    rig.engine.accept(job)
    older, newer = rig.engine.held()
    assert older.lost
    assert not newer.lost
    rig.watched.gate.set()
    assert rig.answers(job) == [5]
    until(lambda: not rig.engine.held())
    assert run(rig.redis, calls.accounts())["grey"].done == 1


def test_finished_items_of_a_slow_job_are_committed_before_its_end(rig: Any) -> None:
    rig.long.pause_s = 0.05
    job = rig.submit([1, 200], task="explanation")
    until(lambda: rig.envelope(job).record.finished == 1, 6)
    assert not rig.envelope(job).record.state.ended
    rig.engine.held()[0].stopped = JobState.CANCELLED


def test_many_small_jobs_of_one_batch_share_a_round_trip(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.answers(rig.submit([0]))
    rig.watched.gate.clear()
    first = rig.submit([0])
    until(lambda: len(rig.watched.batches) == 2)
    jobs = [rig.submit([level]) for level in range(1, 16)]
    until(lambda: rig.engine.batcher._ready.count(Lane.INTERACTIVE) == 15)
    trips: list[int] = []

    def counted(redis: Any, wanted: Any, **how: Any) -> Any:
        trips.append(len(wanted))
        return run_all(redis, wanted, **how)

    monkeypatch.setattr(committer, "run_all", counted)
    rig.watched.gate.set()
    until(lambda: not rig.engine.held())
    assert sum(trips) == 16
    assert len(trips) <= 3, trips
    assert [rig.answers(job) for job in (first, *jobs)] == [[level] for level in range(16)]


@pytest.fixture
def committed_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that made commits."""
    threads: list[str] = []

    def noted(redis: Any, wanted: Any, **how: Any) -> Any:
        threads.append(threading.current_thread().name)
        return run_all(redis, wanted, **how)

    monkeypatch.setattr(committer, "run_all", noted)
    return threads


def test_a_single_answer_is_committed_by_a_device_that_has_nothing_else_to_do(
    rig: Any, committed_in: list[str]
) -> None:
    # Whether the claim has been left by then is a matter of microseconds.
    for level in range(100):
        assert rig.answers(rig.submit([level])) == [level]
        if "device" in committed_in:
            break
    assert "device" in committed_in
    committed_in.clear()
    assert rig.answers(rig.submit([7], lane=Lane.BULK)) == [7]
    assert committed_in == ["commit"]
    # Of a job of two the last may find the first still unsent.
    assert rig.answers(rig.submit([7, 8])) == [7, 8]


def test_the_device_does_not_commit_while_more_waits_for_it(rig: Any, committed_in: list[str]) -> None:
    rig.watched.gate.clear()
    first = rig.submit([1])
    until(lambda: rig.watched.batches)
    bulk = rig.submit(list(range(20)), lane=Lane.BULK)
    until(lambda: rig.engine.batcher._ready.count(Lane.BULK) > 0)
    assert rig.engine.batcher.has_work
    rig.watched.gate.set()
    assert rig.answers(first) == [1]
    assert committed_in[0] == "commit"
    assert rig.answers(bulk) == list(range(20))
    until(lambda: not rig.engine.batcher.has_work)


def test_what_the_device_could_not_commit_is_tried_on_by_the_committer(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def away(redis: Any, wanted: Any, **how: Any) -> Any:
        tried.append(threading.current_thread().name)
        if len(tried) < 3:
            raise QueueUnavailableError("away")
        return run_all(redis, wanted, **how)

    monkeypatch.setattr(committer, "run_all", away)
    rig.engine._may_commit_here = lambda _: True
    assert rig.answers(rig.submit([6])) == [6]
    assert tried == ["device", "commit", "commit"]
    until(lambda: not rig.engine.held() and rig.window.held == 0)


def test_the_device_leaves_a_job_that_is_no_longer_held_alone(rig: Any, committed_in: list[str]) -> None:
    rig.engine._may_commit_here = lambda _: True
    rig.watched.gate.clear()
    job = rig.submit([6])
    until(lambda: rig.watched.batches)
    (held,) = rig.engine.held()
    held.lost = True
    rig.watched.gate.set()
    until(lambda: not rig.engine.held() and rig.window.held == 0)
    assert committed_in == []
    assert rig.envelope(job).items == []


def test_a_drain_finishes_what_is_held(rig: Any) -> None:
    rig.watched.gate.clear()
    jobs = [rig.submit(list(range(40)), lane=Lane.BULK), rig.submit([3], task="explanation")]
    until(lambda: rig.watched.batches)
    threading.Timer(0.2, rig.watched.gate.set).start()
    rig.engine.drain(10)
    assert [rig.envelope(job).record.state for job in jobs] == [JobState.DONE, JobState.DONE]


def test_a_drain_hands_back_what_it_cannot_finish_and_counts_no_attempt(rig: Any) -> None:
    rig.long.pause_s = 0.02
    begun = rig.submit([250], task="explanation")
    waiting = [rig.submit([250], task="explanation") for _ in range(5)]
    done_in_part = rig.submit([2, 250], task="explanation")
    until(lambda: rig.long.trace)
    started = time.monotonic()
    rig.engine.drain(0.5)
    assert time.monotonic() - started < 5
    for job in (begun, *waiting, done_in_part):
        record = rig.envelope(job).record
        assert (record.state, record.attempts) == (JobState.QUEUED, 0)
    assert rig.redis.llen("vp:grey:interactive") >= 7


def test_a_job_stopped_between_its_last_commit_and_its_hand_back_does_not_wait_for_its_lease(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.long.pause_s = 0.02
    job = rig.submit([250], task="explanation")
    until(lambda: rig.long.trace)
    send = rig.engine.committer._send

    def send_and_stop(parts: Any) -> None:
        send(parts)
        for part in parts:
            run(rig.redis, calls.cancel(part.job.claim.job))
            part.job.stopped = JobState.CANCELLED

    monkeypatch.setattr(rig.engine.committer, "_send", send_and_stop)
    rig.engine.drain(0.1)
    assert rig.envelope(job).record.state is JobState.CANCELLED


def test_a_drain_with_a_stuck_device_hands_back_what_is_done(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.engine.HAND_BACK_S", 0.3)
    job = rig.submit([1, 2, 3], sizes=[(4, 4), (4, 4), (5, 5)], accept=False)
    rig.engine.accept(job)
    until(lambda: rig.envelope(job).record.state.ended)
    rig.watched.gate.clear()
    stuck = rig.submit([9])
    until(lambda: len(rig.watched.batches) >= 3 or rig.watched.batches[-1] == [(stuck, 0)])
    rig.engine.drain(0.1)
    assert rig.envelope(stuck).record.state is JobState.QUEUED
    rig.watched.gate.set()
    rig.engine._held.clear()


def test_a_job_that_never_finds_its_store_fails_after_a_while_and_may_be_retried(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: list[int] = []

    def fetch(work: Any, *_: Any) -> bytes:
        full.append(work.index)
        raise QueueUnavailableError("disk full")

    monkeypatch.setattr(rig.engine._reader, "fetch", fetch)
    job = rig.submit([1, 2, 3], accept=False)
    for _ in range(committer.MAX_LET_GO):
        rig.engine.accept(job)
        until(lambda: not rig.engine.held())
        record = rig.envelope(job).record
        assert (record.state, record.attempts, record.finished) == (JobState.QUEUED, 0, 0)
    rig.engine.accept(job)
    ended = rig.ended(job)
    assert (ended.record.state, ended.items) == (JobState.FAILED, [])
    assert (ended.record.error.code, ended.record.error.retryable) == ("queue_unavailable", True)
    assert ended.record.error.message == "disk full"
    # Once a job heads for its end nobody waits for the store on behalf of its other images.
    assert len(full) <= 2 * (committer.MAX_LET_GO + 1)
    until(lambda: not rig.engine.held() and rig.window.held == 0)


def test_a_job_that_gets_on_is_handed_back_however_often_it_found_no_store_before(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = rig.engine._reader.fetch

    def slow(work: Any, *how: Any) -> bytes:
        if work.index == 0:
            return bytes(fetch(work, *how))
        until(lambda: rig.envelope(job).record.finished or work.job.got_on)
        raise QueueUnavailableError("disk full")

    monkeypatch.setattr(rig.engine._reader, "fetch", slow)
    job = rig.submit([1, 2], accept=False)
    rig.redis.hset(f"vp:job:{job}", "let_go", committer.MAX_LET_GO)
    rig.engine.accept(job)
    until(lambda: not rig.engine.held())
    record = rig.envelope(job).record
    assert (record.state, record.finished) == (JobState.QUEUED, 1)
    assert rig.redis.hget(f"vp:job:{job}", "let_go") == b"1"


def test_an_image_that_found_no_store_keeps_none_of_its_neighbours_waiting(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = rig.engine._reader.fetch

    def refused(work: Any, *how: Any) -> bytes:
        if work.index:
            return bytes(fetch(work, *how))
        until(lambda: work.job.open_items == 1)
        raise QueueUnavailableError("denied")

    monkeypatch.setattr(rig.engine._reader, "fetch", refused)
    job = rig.submit([1, 2, 3, 4], lane=Lane.BULK, accept=False)
    rig.redis.hset(f"vp:job:{job}", "let_go", 1)
    rig.engine.accept(job)
    until(lambda: not rig.engine.held())
    record = rig.envelope(job).record
    assert (record.state, record.finished) == (JobState.QUEUED, 3)


def test_what_is_left_to_do_for_a_job_without_a_store_is_not_begun(rig: Any) -> None:
    rig.watched.gate.clear()
    job = rig.submit([1])
    until(lambda: rig.watched.batches)
    (held,) = rig.engine.held()
    work = Work(held, 0, None, rig.engine._reader.read, rig.engine._artifacts)
    work.rest = lambda: pytest.fail("its artifacts would wait for the store once more")
    held.let_go = held.handing_back = True
    rig.engine._finish(work)
    rig.watched.gate.set()
    until(lambda: rig.envelope(job).record.state is JobState.QUEUED)


def test_long_work_of_a_job_that_fails_leaves_no_result_that_looks_done(rig: Any) -> None:
    rig.long.pause_s = 0.02
    job = rig.submit([250], task="explanation")
    until(lambda: rig.long.trace)
    (held,) = rig.engine.held()
    held.stop(JobState.FAILED, ErrorInfo(code="queue_unavailable", message="disk full", retryable=True))
    held.stop(JobState.CANCELLED)
    ended = rig.ended(job)
    assert (ended.record.state, ended.items) == (JobState.FAILED, [])
    assert ended.record.error.retryable


def test_a_hurried_drain_hands_back_at_once(rig: Any) -> None:
    rig.long.pause_s = 0.02
    job = rig.submit([250], task="explanation")
    until(lambda: rig.long.trace)
    hurry = threading.Event()
    hurry.set()
    started = time.monotonic()
    rig.engine.drain(60, hurry)
    assert time.monotonic() - started < 5
    assert rig.envelope(job).record.state is JobState.QUEUED


def test_a_drain_without_redis_ends_all_the_same(
    make_rig: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.parts.HAND_BACK_TRY_S", 0.3)
    monkeypatch.setattr("workers.engine.HAND_BACK_S", 0.3)
    rig = make_rig(settings={"redis_url": redis_server.url})
    rig.long.pause_s = 0.02
    rig.submit([250], task="explanation")
    until(lambda: rig.long.trace)
    redis_server.stop()
    started = time.monotonic()
    rig.engine.drain(0.1)
    assert time.monotonic() - started < 10
    rig.engine._held.clear()


def test_a_blob_is_read_again_after_redis_was_away(make_rig: Any, redis_server: RedisServer) -> None:
    rig = make_rig(settings={"redis_url": redis_server.url, "lease_s": 30, "decode_threads": 1})
    held_up = threading.Event()
    fetch = rig.engine._parts.fetcher.fetch

    def slow_fetch(*asked: Any) -> bytes:
        held_up.wait(10)
        data: bytes = fetch(*asked)
        return data

    rig.engine._parts.fetcher.fetch = slow_fetch
    job = rig.submit([1, 2])
    rig.redis.bgrewriteaof()
    time.sleep(1.2)
    redis_server.stop()
    held_up.set()
    time.sleep(0.3)
    redis_server.start()
    assert redis_server.wait_ready(20)
    assert rig.answers(job) == [1, 2]
