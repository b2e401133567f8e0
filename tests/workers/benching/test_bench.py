"""The command from end to end, with a real Redis and a real worker."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from models.measurements import Measurements
from visionpipe.errors import InvalidRequestError, SettingsError, UnknownModelError, UnsupportedTaskError
from workers.benching.command import app
from workers.benching.running import doubled, has_levelled, images_for


def test_a_small_network_is_measured_through_the_real_service(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONPIPE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("VISIONPIPE_REDIS_URL", raising=False)
    words = ["lenet-digits:compile=off,max_batch=16", "--concurrency", "1,4", "--seconds", "0.3", "--rounds", "1"]
    done = CliRunner().invoke(app, [*words, "--plot", str(tmp_path / "plot.png"), "--json"], catch_exceptions=False)
    report = json.loads(done.stdout)
    assert [point["in_flight"] for point in report["points"]] == [1, 4]
    for point in report["points"]:
        assert point["done"] >= 4
        assert not point["errors"]
        assert 0 < point["p50_ms"] <= point["p95_ms"] <= point["p99_ms"]
        # What the stages and the rest take is the whole of a request.
        assert point["stage_ms"]["forward"] > 0
    assert report["subject"]["max_batch"] == 16
    assert report["subject"]["own_worker"]
    assert report["folder"]["failed"] == 0
    assert report["ceiling"]["images_per_s"] > 0
    assert report["ceiling"]["share"] == pytest.approx(
        report["folder"]["runs"][0] / report["ceiling"]["images_per_s"], rel=0.01
    )
    assert [one["workers"] for one in report["crews"]] in ([1], [1, 2], [1, 2, 4])
    tried = [one["workers"] for one in report["crews"]]
    assert report["advice"]["workers"] in (tried if len(tried) > 1 else [None])
    assert report["memory"]["peak_rss_bytes"] >= report["memory"]["rss_bytes"] * 0.9 > 10e6
    assert report["advice"]["max_batch"] in [one["batch"] for one in report["batches"]]
    assert (tmp_path / "plot.png").exists()
    kept = Measurements(tmp_path).all()
    assert {(one.batch, one.by) for one in kept} == {(one["batch"], "bench") for one in report["batches"]}
    assert kept[0].model == report["subject"]["model"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["lenet-digits", "vgg-digits"], InvalidRequestError),
        (["--compare", "lenet-digits"], InvalidRequestError),
        (["lenet-digits", "--concurrency", "0"], SettingsError),
        (["lenet-digits", "--rate", "fast"], SettingsError),
        (["lenet-digits", "--plot", "x.txt"], SettingsError),
        (["no-such-model"], UnknownModelError),
        (["lenet-digits", "--task", "detection"], UnsupportedTaskError),
        (["lenet-digits", "-O", "top=3"], InvalidRequestError),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.__name__,
)
def test_a_slip_of_the_pen_is_told_before_anything_is_started(words, error, monkeypatch):
    monkeypatch.setattr("workers.benching.running.served", None)
    assert isinstance(CliRunner().invoke(app, words).exception, error)


@pytest.mark.parametrize(
    ("rates", "levelled"),
    [([1, 2, 4], False), ([10, 20, 20.1, 20.2], True), ([10, 20, 20.1, 25], False), ([10, 10, 9, 9], True)],
)
def test_a_sweep_ends_when_two_loads_bring_nothing(rates, levelled):
    assert has_levelled(rates) is levelled


def test_loads_are_doubled_within_bounds():
    assert doubled(32) == [1, 2, 4, 8, 16, 32]
    assert doubled(10_000)[-1] == 128
    assert (images_for(0.1, 6), images_for(100, 6), images_for(1e6, 6)) == (32, 600, 20_000)
