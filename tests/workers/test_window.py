"""The worker's window and the order of lists it gives to kombu."""

from __future__ import annotations

import time

import pytest

from visionpipe.queue import Claim, keys
from visionpipe.schemas.jobs import Lane
from workers.window import MAX_COMING, MIN_INTERACTIVE, LaneOrder, Window

NAMES = [keys.lane_list(target, lane) for target in ("m", "m@0123456789ab") for lane in (Lane.BULK, Lane.INTERACTIVE)]


def order(window: Window) -> LaneOrder:
    made = LaneOrder(window)
    made.update(NAMES)
    return made


def test_interactive_lists_come_first() -> None:
    assert order(Window(8)).consume(4) == [
        "vp:m:interactive", "vp:m@0123456789ab:interactive", "vp:m:bulk", "vp:m@0123456789ab:bulk",
    ]  # fmt: skip


def test_pinned_and_unpinned_lists_of_a_lane_take_turns() -> None:
    lists = order(Window(8))
    lists.rotate("vp:m:bulk")
    assert lists.consume(4)[2:] == ["vp:m@0123456789ab:bulk", "vp:m:bulk"]
    lists.rotate("vp:m@0123456789ab:bulk")
    assert lists.consume(4)[2:] == ["vp:m:bulk", "vp:m@0123456789ab:bulk"]
    assert lists.consume(4)[0] == "vp:m:interactive"


def test_a_full_bulk_window_leaves_only_interactive_lists() -> None:
    window = Window(8)
    window.add(Lane.BULK, 16)
    assert order(window).consume(4) == ["vp:m:interactive", "vp:m@0123456789ab:interactive"]
    window.remove(Lane.BULK, 1, num_done=1)
    assert len(order(window).consume(4)) == 4


def test_with_everything_full_there_is_nothing_to_pop() -> None:
    window = Window(8)
    window.add(Lane.BULK, 16)
    window.add(Lane.INTERACTIVE, MIN_INTERACTIVE)
    assert order(window).consume(4) == []


def test_the_window_is_two_seconds_of_the_measured_rate() -> None:
    window = Window(2)
    window.add(Lane.BULK, 1000)
    time.sleep(0.1)
    window.remove(Lane.BULK, 100, num_done=100)
    assert window.rate is not None
    assert 300 < window.rate <= 1000
    window.remove(Lane.BULK, 900 - round(1.8 * window.rate), num_done=0)
    assert window.open_lanes([Lane.BULK])
    window.add(Lane.BULK, round(0.4 * window.rate))
    assert not window.open_lanes([Lane.BULK])


def test_the_first_window_follows_what_the_warm_up_saw() -> None:
    window = Window(4, 100.0)
    window.add(Lane.BULK, 199)
    assert window.open_lanes([Lane.BULK])
    window.add(Lane.BULK, 1)
    assert not window.open_lanes([Lane.BULK])


def test_dropped_images_leave_the_window_but_not_the_rate() -> None:
    window = Window(4)
    window.add(Lane.BULK, 10)
    window.remove(Lane.BULK, 10, num_done=0)
    assert (window.held, window.rate, window.done_items) == (0, None, 0)


def test_idle_time_does_not_count_in_the_rate() -> None:
    window = Window(4)
    for _ in range(2):
        window.add(Lane.BULK, 10)
        time.sleep(0.02)
        window.remove(Lane.BULK, 10, num_done=10)
        time.sleep(0.2)
    assert window.rate is not None
    assert window.rate > 150


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize(("size", "most"), [(None, 1), (1, MAX_COMING), (100, 4), (400, 1)])
def test_tickets_are_taken_ahead_as_far_as_jobs_like_the_last_one_would_fill_the_window(
    lane: Lane, size: int | None, most: int
) -> None:
    window, opened = Window(8, 200.0), []
    window.on_open(lambda: opened.append(True))
    if size is not None:
        window.add(lane, size)
        window.remove(lane, size, num_done=0)
    opened.clear()
    for _ in range(most):
        assert len(order(window).consume(4)) == 4
        window.expect(lane)
    assert order(window).consume(4) == []
    window.arrived(lane)
    assert (len(order(window).consume(4)), len(opened)) == (4, 1)


def test_a_large_job_among_small_ones_is_remembered_for_a_while() -> None:
    window = Window(8, 200.0)

    def ahead() -> int:
        number = 0
        while window.open_lanes([Lane.BULK]):
            window.expect(Lane.BULK)
            number += 1
        for _ in range(number):
            window.arrived(Lane.BULK)
        return number

    told = []
    for size in (400, 1, 1, 1, 1):
        window.add(Lane.BULK, size)
        window.remove(Lane.BULK, size, num_done=0)
        told.append(ahead())
    assert told == [1, 2, 4, 8, 8]


def test_whoever_found_no_lane_open_is_told_once_when_one_is() -> None:
    window, opened = Window(8), []
    window.on_open(lambda: opened.append(True))
    window.expect(Lane.BULK)
    window.add(Lane.INTERACTIVE, MIN_INTERACTIVE)
    window.add(Lane.BULK, 16)
    window.arrived(Lane.BULK)
    window.remove(Lane.BULK, 1, num_done=0)
    assert opened == []
    window.add(Lane.BULK, 1)
    assert order(window).consume(4) == []
    window.remove(Lane.BULK, 1, num_done=0)
    window.remove(Lane.BULK, 1, num_done=0)
    window.remove(Lane.INTERACTIVE, 1, num_done=0)
    assert opened == [True]


def test_a_job_smaller_than_was_feared_opens_the_window_as_it_arrives() -> None:
    window, opened = Window(8, 100.0), []
    window.on_open(lambda: opened.append(True))
    window.expect(Lane.INTERACTIVE)
    assert order(window).consume(4) == []
    window.add(Lane.INTERACTIVE, 1)
    window.arrived(Lane.INTERACTIVE)
    assert opened == [True]


def test_a_claimed_job_counts_for_as_much_as_the_last_of_its_lane_until_its_weight_is_known() -> None:
    window = Window(8, 100.0)
    window.add(Lane.BULK, 1, 16)
    window.remove(Lane.BULK, 1, 16, num_done=0)
    claim = Claim("j", "t", b"", Lane.BULK, 0, 0.0, None, frozenset(), num_open=1)
    with window.reserved([claim] * 20):
        assert Lane.BULK not in window.open_lanes(Lane)
    assert Lane.BULK in window.open_lanes(Lane)


def test_what_is_claimed_fills_the_window_before_it_is_added() -> None:
    window = Window(8, 100.0)
    claim = Claim("j", "t", b"", Lane.BULK, 0, 0.0, None, frozenset(), num_open=200)
    window.expect(Lane.BULK)
    with window.reserved([claim]):
        window.arrived(Lane.BULK)
        assert window.open_lanes(Lane) == {Lane.INTERACTIVE}
        assert window.held == 0
        window.add(Lane.BULK, 200)
    assert (window.held, window.open_lanes(Lane)) == (200, {Lane.INTERACTIVE})
    window.remove(Lane.BULK, 1, num_done=0)
    assert window.open_lanes(Lane) == set(Lane)


def test_a_worker_of_one_lane_is_told_of_that_lane() -> None:
    window, opened = Window(8), []
    window.on_open(lambda: opened.append(True))
    lists = LaneOrder(window)
    lists.update(["vp:m:bulk"])
    window.add(Lane.BULK, 16)
    assert lists.consume(1) == []
    window.remove(Lane.BULK, 1, num_done=0)
    assert opened == [True]
    assert lists.consume(1) == ["vp:m:bulk"]


def test_weight_fills_the_window_and_leaves_it_again() -> None:
    window = Window(8)
    window.add(Lane.BULK, 2, weight=8)
    assert window.held == 2
    assert not window.open_lanes([Lane.BULK])
    window.remove(Lane.BULK, 2, weight=8, num_done=2)
    assert window.open_lanes([Lane.BULK])
