"""Calls that outlast an absence of Redis."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from redis import Redis

from visionpipe.errors import InvalidImageError, QueueFullError, QueueUnavailableError, ServiceError
from visionpipe.queue import call, calls, connect
from workers.persist import persist, run_all


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def attempt() -> str:
        if left:
            raise left.pop()
        return "done"

    return attempt


@pytest.mark.parametrize("error", [QueueUnavailableError("away"), QueueFullError("no memory")], ids=["away", "full"])
def test_a_refusal_is_tried_again(error: ServiceError) -> None:
    assert persist(failing(2, error), give_up_s=5) == "done"


def test_after_some_time_it_gives_up() -> None:
    started = time.monotonic()
    with pytest.raises(QueueUnavailableError):
        persist(failing(99, QueueUnavailableError("away")), give_up_s=0.5)
    assert time.monotonic() - started < 5


def test_what_nobody_wants_any_more_is_not_tried_again() -> None:
    started = time.monotonic()
    with pytest.raises(QueueUnavailableError):
        persist(failing(99, QueueUnavailableError("away")), give_up_s=60, stop=lambda: True)
    assert time.monotonic() - started < 5


def test_any_other_error_passes_at_once() -> None:
    with pytest.raises(InvalidImageError):
        persist(failing(1, InvalidImageError("broken")), give_up_s=60)


def test_many_calls_share_a_round_trip_and_load_their_script_when_redis_forgot_it(redis_url: str) -> None:
    redis = connect(redis_url)
    wanted = [calls.commit(f"job{i}", "t", []) for i in range(5)]
    assert run_all(redis, wanted) == [False] * 5
    redis.script_flush()
    assert run_all(redis, wanted) == [False] * 5


def test_one_refused_call_does_not_take_the_others_with_it(redis_url: str) -> None:
    redis = connect(redis_url)
    numbers = dict.fromkeys(("finished", "attempts", "submitted_at", "blobs", "ttl_ms"), 0)
    held = {"state": "running", "token": "t", "model": "m", "lane": "bulk", "total": 2, **numbers}
    redis.hset("vp:job:broken", mapping=held)  # type: ignore[arg-type]
    redis.set("vp:items:broken", b"no hash")
    wanted = [calls.commit(job, "t", [(0, True, b"{}")]) for job in ("a", "broken", "b")]
    run_all(redis, wanted[:1])
    assert run_all(redis, wanted) == [False, None, False]


@pytest.fixture
def silent(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Redis:
    """A client of a server that says nothing for longer than one try takes, and for less than two."""
    monkeypatch.setattr(call, "SILENT_S", 2)
    redis = connect(redis_url)
    redis.ping()
    redis.execute_command("CLIENT", "PAUSE", 3000, "ALL")
    return redis


def test_a_call_whose_answer_is_late_is_made_again(silent: Redis) -> None:
    assert run_all(silent, [calls.commit("a", "t", [])]) == [False]


def test_who_has_no_patience_with_a_silent_redis_asks_once(silent: Redis) -> None:
    with pytest.raises(QueueUnavailableError, match="Timeout"):
        run_all(silent, [calls.commit("a", "t", [])], patient=False)


def test_without_redis_there_is_one_kind_of_error() -> None:
    redis = connect("unix:///nowhere/at/all.sock")
    with pytest.raises(QueueUnavailableError):
        run_all(redis, [calls.commit("a", "t", []), calls.commit("b", "t", [])])
