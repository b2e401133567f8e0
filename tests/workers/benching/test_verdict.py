"""Ceilings and recommendations from stages that are known."""

from __future__ import annotations

import pytest

from workers.benching.measures import Bare, Stage, ThreadRate
from workers.benching.verdict import bare_ceiling, bare_rate, enough_threads, smallest_within


def bare(decode: tuple[float, float], forward: tuple[float, float], post: float = 0.0) -> Bare:
    """Make stages of (images a second, milliseconds of a core)."""
    return Bare(
        decode=Stage(images_per_s=decode[0], core_ms=decode[1]),
        forward=Stage(images_per_s=forward[0], core_ms=forward[1]),
        postprocess=Stage(images_per_s=1000 / post if post else 0, core_ms=post),
    )


@pytest.mark.parametrize(
    ("stages", "cores", "on_cpu", "expected"),
    [
        # Two cores: 5 ms to decode and 35 ms to compute leave 50 images a second, though each alone does more.
        (bare((400, 5), (57, 35)), 2, True, 50),
        # A network that uses half of the cores by itself cannot go faster for the other half.
        (bare((1600, 5), (50, 20)), 8, True, 50),
        # On a GPU the slower stage decides, whatever the launching thread spins through.
        (bare((800, 10), (1500, 40)), 8, False, 800),
        (bare((3000, 1), (1500, 40)), 8, False, 1500),
        # Finishing shares the cores with decoding.
        (bare((800, 10), (1500, 1), 10), 8, False, 400),
    ],
    ids=["shared", "half", "decode on a GPU", "forward on a GPU", "finishing"],
)
def test_a_perfect_pipeline_is_held_back_by_what_runs_out_first(stages, cores, on_cpu, expected):
    assert bare_rate(stages, cores=cores, on_cpu=on_cpu) == pytest.approx(expected)


def test_the_share_is_that_of_the_median_round():
    stages = bare((400, 5), (57, 35))
    found = bare_ceiling([(stages, 40.0), (stages, 45.0), (stages, 47.5)], cores=2, on_cpu=True)
    assert found is not None
    assert (found.images_per_s, found.share, found.share_range, found.bound) == (50, 0.9, (0.8, 0.95), "forward")
    without = bare_ceiling([(stages, None)], cores=2, on_cpu=True)
    assert without is not None
    assert without.share is None
    assert bare_ceiling([], cores=2, on_cpu=True) is None


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ([(1, 50.0), (2, 90.0), (4, 97.5), (8, 100.0), (16, 80.0)], 4),
        ([(1, 100.0), (2, 90.0)], 1),
        ([(1, 96.9), (2, 100.0)], 2),
        ([], None),
    ],
    ids=["within", "the first", "just not", "nothing"],
)
def test_the_smallest_batch_within_three_per_cent_is_recommended(rates, expected):
    assert smallest_within(rates) == expected


@pytest.mark.parametrize(
    ("rates", "forward", "expected"),
    [
        ([(1, 100), (2, 190), (4, 350)], 80, 1),
        ([(1, 100), (2, 190), (4, 350)], 100, 2),
        ([(1, 100), (2, 190), (4, 195)], 1000, 2),
        ([(1, 100), (2, 103)], None, 1),
    ],
    ids=["one feeds it", "with headroom", "none does", "no network"],
)
def test_the_fewest_threads_that_keep_the_network_fed_are_recommended(rates, forward, expected):
    found = [ThreadRate(threads=threads, images_per_s=rate) for threads, rate in rates]
    assert enough_threads(found, forward) == expected
