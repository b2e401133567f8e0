"""What counts as flat."""

from __future__ import annotations

import pytest

from tests.bench.growth import Spent, growth_of, is_flat, verdicts
from tests.bench.growth_plot import NAMES, draw


@pytest.mark.parametrize(
    ("first", "last", "unit", "flat"),
    [
        (600.0, 660.0, "mb", True),
        (600.0, 670.0, "mb", False),
        (100.0, 124.0, "us", True),
        (100.0, 126.0, "us", False),
        (3.0, 12.0, "us", True),
        (2.0, 2.6, "ms", False),
        (2.0, 1.0, "ms", True),
    ],
)
def test_memory_may_grow_by_an_amount_and_costs_by_a_factor(first, last, unit, flat):
    assert is_flat(first, last, unit=unit) is flat


@pytest.mark.parametrize(
    ("lengths", "expected"), [([1, 1000, 5000], (20, 30)), ([1, 10], (10, 20))], ids=["steady", "none is"]
)
def test_short_lengths_are_left_out_where_there_are_longer_ones(lengths, expected):
    rows = [{"queued": length, "us": 10.0 * (place + 1)} for place, length in enumerate(lengths)]
    assert growth_of(rows, "queued", "us") == expected


@pytest.mark.parametrize(("ratios", "flat"), [((1.0, 1.2, 1.1), "yes"), ((1.0, 1.3, 1.1), "NO")])
def test_a_job_in_a_queue_of_any_length_may_cost_little_more_than_in_a_short_one(ratios, flat):
    names = ("worker_mb", "client_mb", "redis_mb", "p50_ms", "client_us", "worker_us", "redis_us", "redis_ratio")
    rows = [{"queued": 1000 * n, "images": 1000 * n, **dict.fromkeys(names, 1.0), "worker_ratio": r}
            for n, r in enumerate(ratios, 1)]  # fmt: skip
    found = {row[1]: row[-1] for row in verdicts({"queue": rows, "drain": rows, "run": rows})}
    assert (found["worker_ratio"], found["redis_ratio"]) == (flat, "yes")


def test_costs_are_those_of_an_image():
    assert Spent(2.0, 3.0, 0.5).since(Spent(1.0, 1.0, 0.5), 1000) == {
        "client_us": 1000.0, "worker_us": 2000.0, "redis_us": 0.0,
    }  # fmt: skip


def test_the_picture_is_drawn(tmp_path):
    costs = {f"{name}_{unit}": 1.0 for name in NAMES for unit in ("mb", "us")}
    rows = [{"queued": n, "images": n, "images_per_s": 5.0, "p50_ms": 2.0, **costs} for n in (1000, 100_000)]
    batch = [{"batch": n, "idle_mb": 500.0, "worker_mb": 600.0} for n in (1, 64)]
    about = {"cores": 2, "machine": "x", "date": "today", "quick": False, "batch_model": "m"}
    draw({"about": about, "batch": batch, "queue": rows, "drain": rows, "run": rows}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
