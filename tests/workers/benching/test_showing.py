"""Tables of 100 columns and pictures, from figures that are known."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from visionpipe.runs.ceiling import Ceiling
from workers.benching.measures import BatchTime, ThreadRate
from workers.benching.plot import draw
from workers.benching.points import STAGES, Point
from workers.benching.private import Memory
from workers.benching.report import BenchReport, CompareReport, FolderPhase, Pictures, Ratio, Subject
from workers.benching.tables import show, show_comparison
from workers.benching.verdict import Advice, BareCeiling

SUBJECT = Subject(
    label="resnet50", model="resnet50@0123456789ab", task="classification", device="cpu", precision="bf16",
    device_name="a processor with a name that is long enough", code="compiled", max_batch=16, decode_threads=2,
    version="0",
)  # fmt: skip


def point(in_flight: int | None, offered: float | None = None, **more) -> Point:
    stages = dict.fromkeys([*STAGES, "other"], 12.25)
    return Point(
        in_flight=in_flight, offered_per_s=offered, sent_per_s=offered, window_s=4, done=100, images_per_s=41.6,
        p50_ms=100.0, p95_ms=1234.5, p99_ms=2345.6, stage_ms=stages, mean_batch=3.5, **more,
    )  # fmt: skip


def report(points: list[Point]) -> BenchReport:
    return BenchReport(
        subject=SUBJECT,
        pictures=Pictures(source="generated", different=64, mean_bytes=41_000),
        points=points,
        folder=FolderPhase(
            images=250,
            images_per_s=41.6,
            runs=[40.0, 41.6, 42.0],
            failed=0,
            ceiling=Ceiling(images_per_s=44.8, share=0.93, bound="forward", machines=1, core_ms={}),
        ),
        ceiling=BareCeiling(
            images_per_s=44.8, share=0.93, share_range=(0.9, 0.95), decode_per_s=400, forward_per_s=50.0,
            core_ms={"decode": 5, "forward": 40, "postprocess": 0}, bound="forward",
        ),
        batches=[BatchTime(batch=2**power, ms=25.0, runs=9, images_per_s=41.6) for power in range(9)],
        threads=[ThreadRate(threads=1, images_per_s=190)],
        advice=Advice(max_batch=8, decode_threads=1),
        memory=Memory(rss_bytes=1_500_000_000, peak_rss_bytes=1_600_000_000, device_bytes=2_000_000_000),
        measured_at=0.0,
    )  # fmt: skip


def shown(what, value) -> str:
    stream = io.StringIO()
    what(Console(file=stream, width=100), value)
    return stream.getvalue()


def test_a_report_fits_100_columns_and_names_what_matters():
    points = [point(1), point(32, unfinished=3, errors={"queue_full": 12})]
    text = shown(show, report(points))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for words in (
        "93% of it reached by folder runs (90% to 95%)",
        "44.8 images/s, set by the network",
        "93% of this machine's ceiling (44.8 images/s), forward-bound",
        "--max-batch 8",
        "VISIONPIPE_DECODE_THREADS=1",
        "queue_full 12",
        "3 unanswered",
        "2.0 GB of the GPU",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("first", "second", "more", "words"),
    [
        ([10, 10], [20, 30], True, "second is better"),
        ([10, 10], [20, 30], False, "second is worse"),
        ([10, 20], [20, 10], True, "no difference shown"),
    ],
    ids=["more is better", "more is worse", "either way"],
)
def test_a_comparison_says_only_what_every_round_shows(first, second, more, words):
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    one = Ratio(
        what="folder run", unit="images/s", more_is_better=more, first=first, second=second,
        median=sum(ratios) / 2, low=min(ratios), high=max(ratios),
    )  # fmt: skip
    text = shown(
        show_comparison,
        CompareReport(first=SUBJECT, second=SUBJECT, rounds=2, in_flight=8, ratios=[one], measured_at=0.0),
    )
    assert words in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100


@pytest.mark.parametrize(
    "points", [[point(1), point(2), point(4)], [point(None, 10.0), point(None, 20.0)], []], ids=["closed", "open", "no"]
)
def test_a_plot_is_drawn(tmp_path, points):
    draw(report(points), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
