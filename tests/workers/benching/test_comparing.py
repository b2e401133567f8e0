"""Two contenders in turns."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from workers.benching.command import app
from workers.benching.comparing import ratios


def side(p50: list[float], runs: list[float]) -> Any:
    points = [SimpleNamespace(p50_ms=ms, p95_ms=2 * ms, images_per_s=1000 / ms) for ms in p50]
    return SimpleNamespace(alone=points, points=points, runs=runs)


def test_every_round_is_held_against_its_own():
    # The machine becomes twice as slow in the second round, which concerns both alike.
    found = {one.what: one for one in ratios([side([10, 20], [100, 50]), side([5, 11], [150, 80])], 8)}
    alone, folder = found["one at a time, p50"], found["folder run"]
    assert (alone.low, alone.median, alone.high) == pytest.approx((0.5, 0.525, 0.55))
    assert not alone.more_is_better
    assert alone.shows_a_difference
    assert (folder.low, folder.high) == pytest.approx((1.5, 1.6))
    assert folder.more_is_better


def test_what_was_not_measured_of_both_is_left_out():
    found = [one.what for one in ratios([side([10], []), side([5], [])], 4)]
    assert "folder run" not in found
    points = [SimpleNamespace(p50_ms=None, p95_ms=None, images_per_s=0.0)]
    nothing = SimpleNamespace(alone=points, points=points, runs=[])
    assert ratios([nothing, nothing], 4) == []


@pytest.mark.slow
def test_a_model_is_compared_with_itself_in_other_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONPIPE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("VISIONPIPE_REDIS_URL", raising=False)
    words = ["--compare", "lenet-digits:compile=off,max_batch=1", "lenet-digits:compile=off,max_batch=64"]
    done = CliRunner().invoke(app, [*words, "--seconds", "0.5", "--rounds", "2", "--json"], catch_exceptions=False)
    report = json.loads(done.stdout)
    assert (report["first"]["max_batch"], report["second"]["max_batch"]) == (1, 64)
    folder = next(one for one in report["ratios"] if one["what"] == "folder run")
    assert len(folder["first"]) == len(folder["second"]) == 2
    # One image a step is slower than 64 on any machine.
    assert folder["median"] > 1
