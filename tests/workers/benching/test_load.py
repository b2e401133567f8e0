"""Loops against a service whose times are known."""

from __future__ import annotations

import asyncio
import time

import pytest

from workers.benching.load import closed_loop, open_loop
from workers.benching.points import Sample


class Service:
    """Answers after some time; only so many requests at once, the others wait."""

    def __init__(self, answer_s: float, at_once: int = 1000) -> None:
        self.answer_s = answer_s
        self.most = self.now = 0
        self._room = asyncio.Semaphore(at_once)

    async def __call__(self, number: int, meant_s: float, began_s: float) -> Sample:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with self._room:
                await asyncio.sleep(self.answer_s)
        finally:
            self.now -= 1
        ended = time.perf_counter()
        return Sample((ended - meant_s) * 1000, ended - began_s)


async def test_a_closed_loop_keeps_so_many_under_way():
    service = Service(0.02)
    point = await closed_loop(service, in_flight=4, seconds=0.4)
    assert service.most == 4
    assert 40 < point.images_per_s < 210
    assert point.p50_ms >= 20


async def test_slow_answers_are_waited_for_until_there_are_enough_or_patience_ends():
    point = await closed_loop(Service(0.15), in_flight=2, seconds=0.2)
    assert 4 <= point.done <= 12
    never = await closed_loop(Service(60), in_flight=3, seconds=0.1)
    assert (never.done, never.unfinished, never.images_per_s) == (0, 3, 0)


async def test_an_open_loop_hides_no_queueing():
    # Ten times as many requests as one server can answer: in a closed loop each would take 20 ms.
    point = await open_loop(Service(0.02, at_once=1), per_s=500, seconds=0.4)
    assert point.saturated
    assert point.images_per_s < 55
    assert point.p95_ms > 300


async def test_an_open_loop_sends_the_same_moments_again():
    first, second = [await open_loop(Service(0), per_s=200, seconds=0.3, seed=7) for _ in range(2)]
    assert first.done == second.done == pytest.approx(60, abs=30)


async def test_a_sender_that_is_late_counts_its_own_delay():
    async def blocking(number: int, meant_s: float, began_s: float) -> Sample:
        # The sender itself stands still, as one that computes would.
        time.sleep(0.02)  # noqa: ASYNC251 - that is the point
        ended = time.perf_counter()
        return Sample((ended - meant_s) * 1000, ended - began_s)

    point = await open_loop(blocking, per_s=200, seconds=0.3)
    assert point.p95_ms > 100


async def test_an_unexpected_exception_ends_the_measurement():
    async def broken(number: int, meant_s: float, began_s: float) -> Sample:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await closed_loop(broken, in_flight=2, seconds=0.1)
