"""The keeper: leases, announcements, stops."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from visionpipe.errors import QueueUnavailableError
from visionpipe.queue import calls, run
from visionpipe.redis_server import RedisServer
from visionpipe.schemas.jobs import JobState, Lane


def until(condition: Any, timeout_s: float = 10) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "waited too long"
        time.sleep(0.005)
    return time.monotonic() - started


def test_a_worker_is_announced_while_it_serves_and_not_after(rig: Any) -> None:
    rig.keeper.start()
    time.sleep(0.5)
    assert run(rig.redis, calls.workers()) == []
    rig.keeper.serve()
    told = run(rig.redis, calls.workers())[0]
    assert (told.worker, told.model, told.rss_bytes > 2**20) == ("w1", "grey", True)
    rig.answers(rig.submit([1]))
    until(lambda: run(rig.redis, calls.workers())[0].done_items == 1)
    rig.keeper.retire()
    time.sleep(1.0)
    assert run(rig.redis, calls.workers()) == []


def test_leases_are_renewed_while_a_job_is_held(rig: Any) -> None:
    rig.keeper.start()
    rig.watched.gate.clear()
    job = rig.submit([1])
    time.sleep(rig.settings.lease_s + 1)
    assert run(rig.redis, calls.sweep(rig.settings)).lapsed == 0
    rig.watched.gate.set()
    assert rig.answers(job) == [1]
    assert rig.envelope(job).record.attempts == 0


def test_a_cancel_is_heard_at_once_and_finished_items_stay(make_rig: Any) -> None:
    rig = make_rig(settings={"renew_s": 30.0, "sweep_s": 30.0}, max_batch=2)
    rig.keeper.start()
    rig.watched.gate.clear()
    job = rig.submit(list(range(10)), lane=Lane.BULK)
    until(lambda: rig.watched.batches)
    run(rig.redis, calls.cancel(job))
    assert until(lambda: rig.engine.held()[0].stopped is JobState.CANCELLED) < 0.5
    rig.watched.gate.set()
    envelope = rig.ended(job)
    # The device takes what is ready: one image, or two if the second was quick.
    (batch,) = rig.watched.batches
    assert (envelope.record.state, len(envelope.items)) == (JobState.CANCELLED, len(batch))
    books = run(rig.redis, calls.accounts())["grey"]
    assert (books.done, books.cancelled, books.open) == (len(batch), 10 - len(batch), 0)


def test_a_deadline_stops_a_job_on_time(make_rig: Any) -> None:
    rig = make_rig(settings={"renew_s": 30.0, "sweep_s": 30.0}, max_batch=1)
    rig.keeper.start()
    rig.watched.gate.clear()
    job = rig.submit([1, 2, 3], deadline_s=0.6)
    until(lambda: rig.engine.held()[0].stopped is JobState.EXPIRED, 2)
    rig.watched.gate.set()
    envelope = rig.ended(job)
    assert envelope.record.state is JobState.EXPIRED
    assert envelope.record.error.code == "deadline_exceeded"
    assert len(envelope.items) == 1


def test_a_job_that_another_holds_is_noticed_and_dropped(rig: Any) -> None:
    rig.keeper.start()
    rig.watched.gate.clear()
    job = rig.submit(list(range(40)), lane=Lane.BULK)
    until(lambda: rig.watched.batches)
    run(rig.redis, calls.expire_worker("w1", rig.settings))
    run(rig.redis, calls.claim(job, "w2", "t2", rig.hosted.info, rig.settings))
    until(lambda: all(held.lost for held in rig.engine.held()))
    batches = len(rig.watched.batches)
    rig.watched.gate.set()
    until(lambda: not rig.engine.held())
    assert len(rig.watched.batches) == batches
    assert b"visionpipe_lost_jobs_total" in _metrics(rig)


def test_lapsed_leases_of_others_are_swept(rig: Any) -> None:
    job = rig.submit([1], accept=False)
    run(rig.redis, calls.claim(job, "dead", "t0", rig.hosted.info, rig.settings))
    rig.keeper.start()
    until(lambda: rig.envelope(job).record.state is JobState.QUEUED)
    assert rig.envelope(job).record.attempts == 1


def test_after_a_long_outage_others_renew_their_leases_before_anybody_sweeps(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(settings={"lease_s": 1.0, "renew_s": 0.5, "sweep_s": 0.1})
    job = rig.submit([1], accept=False)
    announce, away = rig.keeper._announce, threading.Event()

    def announced() -> None:
        if away.is_set():
            raise QueueUnavailableError("away")
        announce()

    monkeypatch.setattr(rig.keeper, "_announce", announced)
    rig.keeper.start()
    seen = rig.keeper.beat_at
    until(lambda: rig.keeper.beat_at > seen)
    away.set()
    run(rig.redis, calls.claim(job, "w2", "t2", rig.hosted.info, rig.settings))
    time.sleep(2.5)
    seen = rig.keeper.beat_at
    away.clear()
    until(lambda: rig.keeper.beat_at > seen)
    assert run(rig.redis, calls.renew([(job, "t2")], rig.settings)) == ["ok"]
    # Whoever does not is dead.
    until(lambda: rig.envelope(job).record.state is JobState.QUEUED)


def test_the_keeper_outlives_an_absence_of_redis(make_rig: Any, redis_server: RedisServer) -> None:
    rig = make_rig(settings={"redis_url": redis_server.url})
    rig.keeper.start()
    rig.keeper.serve()
    redis_server.stop()
    time.sleep(0.6)
    redis_server.start()
    assert redis_server.wait_ready(20)
    seen = rig.keeper.beat_at
    until(lambda: rig.keeper.beat_at > seen)
    until(lambda: run(rig.redis, calls.workers()))


def _metrics(rig: Any) -> bytes:
    from prometheus_client import generate_latest

    return generate_latest(rig.metrics.registry)


def test_pixels_of_ended_jobs_that_the_store_keeps_are_told_and_stop_no_others(
    rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[str] = []
    told: list[str] = []
    faults = {"b": QueueUnavailableError("the disk is full"), "o d": ValueError("expected a key")}

    def delete_job(job: str) -> None:
        if job in faults:
            raise faults[job]
        deleted.append(job)

    monkeypatch.setattr(rig.keeper._store, "delete_job", delete_job)
    monkeypatch.setattr("workers.keeper.logger.warning", lambda text, *values: told.append(text % values))
    rig.keeper._delete(["a", "b", "c"])
    rig.keeper._delete(["o d", "d"])
    assert deleted == ["a", "c", "d"]
    assert told == [
        f"pixels of 1 ended jobs were not deleted, and will expire: {why}"
        for why in ("the disk is full", "expected a key")
    ]
