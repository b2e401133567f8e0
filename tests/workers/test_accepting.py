"""From a ticket to a claim: together, in turn, and no more of them than there is room for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.workers.conftest import wait_for
from visionpipe.queue import keys
from visionpipe.schemas.jobs import JobState, Lane
from workers.accepting import PREPARING, THREADS, TOGETHER, Acceptor
from workers.lanes import SLICE_BYTES
from workers.tickets import Ticket
from workers.window import MAX_COMING


@pytest.fixture
def acceptor(rig: Any) -> Iterator[Acceptor]:
    """The tickets' way into the rig's engine."""
    made = Acceptor(rig.engine, rig.engine._parts.window)
    made.start()
    yield made
    made.close(5)
    assert not any(thread.is_alive() for thread in made._threads)


@pytest.fixture
def prepared_in(rig: Any) -> list[str]:
    """The threads that prepared pictures."""
    threads: list[str] = []
    prepare = rig.watched.prepare

    def noted(work: Any) -> None:
        threads.append(threading.current_thread().name)
        prepare(work)

    rig.watched.prepare = noted
    return threads


@pytest.mark.parametrize(
    ("levels", "lane", "here"),
    [([7], Lane.INTERACTIVE, True), ([7, 8], Lane.INTERACTIVE, False), ([7], Lane.BULK, False)],
)
def test_one_interactive_picture_is_prepared_where_it_was_claimed(
    rig: Any, acceptor: Acceptor, prepared_in: list[str], levels: list[int], lane: Lane, here: bool
) -> None:
    job = rig.submit(levels, lane=lane, accept=False)
    acceptor.put(Ticket(job, lane))
    assert rig.answers(job) == levels
    assert [name.startswith("claim-") for name in prepared_in] == [here] * len(levels)


def test_threads_that_claim_never_all_prepare(rig: Any, acceptor: Acceptor, prepared_in: list[str]) -> None:
    assert PREPARING < THREADS
    for _ in range(PREPARING):
        assert acceptor._preparing.acquire(blocking=False)
    job = rig.submit([7], accept=False)
    acceptor.put(Ticket(job, Lane.INTERACTIVE))
    assert rig.answers(job) == [7]
    assert [name.partition("-")[0] for name in prepared_in] == ["decode"]


def test_what_waits_while_one_claims_is_claimed_together(rig: Any, acceptor: Acceptor) -> None:
    asked: list[list[str]] = []
    may_claim = threading.Event()
    claim: Callable[[list[str]], Any] = rig.engine.claim

    def slow(jobs: list[str]) -> Any:
        asked.append(jobs)
        assert may_claim.wait(10)
        return claim(jobs)

    rig.engine.claim = slow
    jobs = [rig.submit([level], accept=False) for level in range(TOGETHER + 4)]
    acceptor.put(Ticket(jobs[0], Lane.INTERACTIVE))
    wait_for(lambda: bool(asked))
    for job in jobs[1:]:
        acceptor.put(Ticket(job, Lane.INTERACTIVE))
    may_claim.set()
    assert [rig.answers(job) for job in jobs] == [[level] for level in range(len(jobs))]
    assert [len(some) for some in asked] == [1, TOGETHER, 3]
    assert [job for some in asked for job in some] == jobs


def test_a_ticket_of_no_job_costs_the_others_nothing(rig: Any, acceptor: Acceptor) -> None:
    job = rig.submit([5], accept=False)
    for name in ("nobody-knows-this", job, job):
        acceptor.put(Ticket(name, Lane.INTERACTIVE))
    assert rig.answers(job) == [5]
    wait_for(lambda: not any(rig.engine._parts.window._coming.values()))


def test_what_was_taken_is_claimed_before_the_threads_end(rig: Any) -> None:
    acceptor = Acceptor(rig.engine, rig.engine._parts.window)
    jobs = [rig.submit([level], accept=False) for level in range(2 * TOGETHER)]
    for job in jobs:
        acceptor.put(Ticket(job, Lane.INTERACTIVE))
    acceptor.start()
    acceptor.close(5)
    assert {rig.envelope(job).record.state for job in jobs} <= {"running", "done"}


def test_a_job_that_cannot_be_read_costs_the_others_nothing(
    rig: Any, acceptor: Acceptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [rig.submit([level], accept=False) for level in range(3)]
    rig.redis.hset(keys.items(jobs[0]), "9" * 5000, "x")
    rig.redis.hset(keys.job(jobs[1]), "request", "[" * 5000)
    for job in jobs:
        acceptor.put(Ticket(job, Lane.INTERACTIVE))
    assert rig.answers(jobs[2]) == [2]
    assert rig.ended(jobs[1]).record.state is JobState.FAILED
    wait_for(lambda: rig.redis.hget(keys.job(jobs[0]), "state") == b"done")


def test_large_pictures_do_not_wait_for_each_other(rig: Any, prepared_in: list[str]) -> None:
    acceptor = Acceptor(rig.engine, rig.engine._parts.window)
    jobs = [rig.submit([level], accept=False) for level in range(4)]
    for job in jobs[2:]:
        # What comes after the end of a PNG is not looked at.
        rig.redis.setrange(keys.stored(f"blob:{job}:0"), SLICE_BYTES - 1, b"x")
    begun = [work for claim in rig.engine.claim(jobs) for work in rig.engine.begin(claim)]
    for work in begun[2:]:
        work.ref = work.ref.model_copy(update={"size_bytes": SLICE_BYTES})
    acceptor._read(begun)
    assert [rig.answers(job) for job in jobs] == [[level] for level in range(4)]
    here = threading.current_thread().name
    assert sorted(name == here for name in prepared_in) == [False, False, True, True]


@pytest.mark.parametrize(("first", "most"), [(None, 1), (1, MAX_COMING)])
@pytest.mark.parametrize("lane", Lane)
def test_celery_is_told_when_there_is_room_again(rig: Any, lane: Lane, first: int | None, most: int) -> None:
    window = rig.engine._parts.window
    acceptor = Acceptor(rig.engine, window)
    woken: list[Callable[[], None]] = []
    take = acceptor.strategy(None, None, SimpleNamespace(call_soon=woken.append))
    acknowledged: list[str] = []

    def message(job: str) -> Any:
        return SimpleNamespace(
            headers={"id": job},
            delivery_info={"routing_key": f"vp:grey@0123456789ab:{lane}"},
            ack=lambda: acknowledged.append(job),
        )

    if first is not None:
        window.add(lane, first)
        window.remove(lane, first, num_done=0)
    jobs = [rig.submit([5], lane=lane, accept=False) for _ in range(most)]
    for job in jobs:
        assert window.open_lanes(Lane)
        take(message(job), None, None, None, None)
    assert not window.open_lanes(Lane)
    assert acknowledged == jobs
    acceptor.start()
    wait_for(lambda: bool(woken))
    assert window.open_lanes(Lane) == set(Lane)
    acceptor.close(5)
    assert len(woken) == 1
    woken[0]()
