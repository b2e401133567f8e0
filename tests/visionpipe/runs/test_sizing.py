"""Chunks grow to two seconds of work, never by leaps, and shrink at the end."""

from __future__ import annotations

from itertools import pairwise

import pytest

from visionpipe.runs.sizing import FIRST_ITEMS, MAX_ITEMS, Sizer
from visionpipe.schemas.jobs import Lane, WorkerRecord


def worker(rate: float | None) -> WorkerRecord:
    return WorkerRecord(
        worker="w",
        model="m",
        digest="0" * 12,
        tasks=["classification"],
        device="cpu",
        precision="fp32",
        lanes=[Lane.BULK],
        max_batch=8,
        rate=rate,
        version="0",
        started_at=0,
    )


def run(sizer: Sizer, rate: float, chunks: int) -> list[int]:
    """Settle chunks one after the other at a rate, and give their sizes."""
    sizes, now_s = [], 0.0
    for _ in range(chunks):
        size = sizer.next_size(1_000_000)
        now_s += size / rate
        sizer.learn(size, now_s)
        sizes.append(size)
    return sizes


@pytest.mark.parametrize(("rate", "settled"), [(2.0, 4), (50.0, 100), (100_000.0, MAX_ITEMS), (0.01, 1)])
def test_chunks_become_two_seconds_of_work_within_bounds(rate, settled):
    sizes = run(Sizer(), rate, 12)
    assert sizes[0] == FIRST_ITEMS
    assert abs(sizes[-1] - settled) <= 1
    assert all(after <= 2 * before for before, after in pairwise(sizes))


def test_a_slow_worker_is_believed_before_the_first_chunk():
    sizer = Sizer()
    sizer.observe([worker(1.5)])
    assert sizer.next_size(1000) == 3


def test_a_fixed_size_stays():
    assert set(run(Sizer(7), 1000.0, 5)) == {7}


def test_the_window_keeps_every_worker_busy():
    sizer = Sizer()
    assert sizer.window == 3
    sizer.observe([worker(None), worker(10.0), worker(20.0)])
    assert sizer.window == 9
    sizer.observe([])
    assert sizer.window == 3


def test_the_last_chunks_are_shared_among_the_workers():
    sizer = Sizer()
    sizer.observe([worker(1000.0), worker(1000.0)])
    run(sizer, 2000.0, 12)
    assert sizer.next_size(100_000) == MAX_ITEMS
    assert sizer.next_size(400) == 100
    assert sizer.next_size(10) == FIRST_ITEMS
