"""Percentiles, rates and splits of requests that are known."""

from __future__ import annotations

import pytest

from workers.benching.points import Sample, closed_point, open_point, quantile, split_ms


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.5, 5.0), ([1.0, 3.0], 0.5, 2.0), ([4.0, 1.0, 3.0, 2.0, 5.0], 0.95, 4.8), ([1.0, 2.0, 3.0], 1.0, 3.0)],
    ids=["one", "between two", "unsorted", "the last"],
)
def test_a_quantile_lies_between_its_neighbours(values, share, expected):
    assert quantile(values, share) == pytest.approx(expected)


def test_a_closed_loop_counts_only_what_came_within_the_window():
    samples = [Sample(100, 0.5), Sample(200, 0.9), Sample(300, 1.2), Sample(50, 0.3, code="invalid_image")]
    point = closed_point(samples, in_flight=2, window_s=1.0)
    assert (point.images_per_s, point.done, point.errors) == (2.0, 3, {"invalid_image": 1})
    assert (point.p50_ms, point.p95_ms) == (200, 290)


def test_who_has_no_answer_counts_with_the_time_it_has_waited():
    samples = [Sample(10, 0.1)] * 9 + [Sample(4000, 4.0, unfinished=True)]
    point = closed_point(samples, in_flight=10, window_s=1.0)
    assert (point.done, point.unfinished) == (9, 1)
    assert point.p99_ms > 3000


@pytest.mark.parametrize(
    ("latencies_ms", "saturated"),
    [([500.0] * 20, False), ([100.0 + 200 * i for i in range(20)], True)],
    ids=["slow but steady", "ever later"],
)
def test_a_service_falls_behind_only_if_its_answers_come_ever_later(latencies_ms, saturated):
    # Twenty requests, meant to be sent every 100 ms.
    samples = [Sample(ms, 0.1 * i + ms / 1000) for i, ms in enumerate(latencies_ms)]
    point = open_point(samples, offered_per_s=10, window_s=2.0)
    assert point.sent_per_s == pytest.approx(10)
    assert point.saturated is saturated
    assert point.images_per_s == pytest.approx(10 if not saturated else 19 / (1.9 + 3.8), rel=0.01)


def test_what_no_stage_accounts_for_is_told_as_other():
    timings = {"queue_ms": 2.0, "forward_ms": 5.0, "batch": 4}
    split = split_ms([Sample(10, 1, timings=timings), Sample(20, 1, timings={**timings, "queue_ms": 4.0})])
    assert (split["queue"], split["forward"], split["decode"], split["other"]) == (3, 5, 0, 7)


def test_nothing_answered_is_no_division_by_nothing():
    point = open_point([], offered_per_s=1, window_s=1.0)
    assert (point.images_per_s, point.p50_ms, point.stage_ms, point.mean_batch) == (0, None, {}, None)
