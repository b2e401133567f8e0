"""Ceilings from what workers say they used."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from visionpipe.aclient import AsyncClient
from visionpipe.cli.batch_view import print_report
from visionpipe.runs import run_folder
from visionpipe.runs.ceiling import Watch, bound_of, ceiling_of
from visionpipe.schemas.jobs import Lane, Usage, WorkerRecord

from .conftest import write_digits


def usage(images: int = 1000, *, host: str = "a", device: str = "cpu", cores: float = 2, **seconds: float) -> Usage:
    """Make one that used so many seconds."""
    spent = {"decode_s": 0.0, "forward_s": 0.0, "postprocess_s": 0.0, "other_s": 0.0, "device_s": 0.0, **seconds}
    return Usage(host=host, device=device, cores=cores, images=images, **spent)


def record(worker: str, used: Usage | None) -> WorkerRecord:
    return WorkerRecord(
        worker=worker, model="m", digest="0" * 12, tasks=["classification"], device="cpu", precision="fp32",
        lanes=list(Lane), max_batch=8, version="0", started_at=0, usage=used,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("spent", "rate", "ceiling", "share", "bound"),
    [
        # 1000 images took 5 s of decoding and 40 s of computing from two cores.
        ([usage(decode_s=5, forward_s=40, other_s=1)], 41.6, 2 * 1000 / 45, 0.936, "forward"),
        ([usage(decode_s=30, forward_s=10, other_s=1)], 45, 50, 0.9, "decode"),
        # A tiny network: the cores could do far more than the one interpreter that keeps the books.
        ([usage(decode_s=0.06, forward_s=0.04, other_s=0.15)], 5000, 20_000, 0.25, "service"),
        # Another worker joined it late.
        (
            [usage(900, decode_s=0.06, forward_s=0.03, other_s=0.15), usage(forward_s=0.01, other_s=0.01)],
            9500, 38_000, 0.25, "service",
        ),
        ([usage(decode_s=5, forward_s=40, other_s=1)], 10, 2 * 1000 / 45, 0.225, "waiting"),
        # A GPU: it computes 2 ms an image, while 16 cores need 8 ms of one core.
        ([usage(device="cuda:0", cores=16, decode_s=8, forward_s=3, device_s=2)], 450, 500, 0.9, "forward"),
        # The same with large pictures.
        ([usage(device="cuda:0", cores=16, decode_s=40, forward_s=3, device_s=2)], 380, 400, 0.95, "decode"),
        # Two workers on one machine share its cores; two machines add up.
        ([usage(500, forward_s=20), usage(500, forward_s=20)], 45, 50, 0.9, "forward"),
        ([usage(500, forward_s=20), usage(500, host="b", forward_s=20)], 90, 100, 0.9, "forward"),
        # Two GPUs add up, two workers of one GPU do not.
        (
            [usage(500, device=f"cuda:{i}", cores=64, forward_s=1, device_s=1) for i in range(2)],
            900, 1000, 0.9, "forward",
        ),
        ([usage(500, device="cuda:0", cores=64, forward_s=1, device_s=2) for _ in range(2)], 450, 500, 0.9, "forward"),
    ],
    ids=[
        "forward", "decode", "service", "late", "waiting",
        "GPU", "GPU, decode", "one host", "two hosts", "2 GPUs", "1 GPU",
    ],
)  # fmt: skip
def test_a_rate_is_held_against_what_the_costs_allow(spent, rate, ceiling, share, bound):
    found = ceiling_of(spent, rate)
    assert found is not None
    assert found.images_per_s == pytest.approx(ceiling, rel=1e-3)
    assert found.share == pytest.approx(share, rel=1e-3)
    assert found.bound == bound


@pytest.mark.parametrize(
    ("spent", "rate"),
    [([], 5), ([usage(3, forward_s=1)], 5), ([usage(forward_s=1)], 0), ([usage()], 5)],
    ids=["no worker told", "too few images", "no rate", "no costs"],
)
def test_what_was_not_measured_is_not_claimed(spent, rate):
    assert ceiling_of(spent, rate) is None


@pytest.mark.parametrize(
    ("busy", "share", "expected"),
    [
        ({"forward": 0.7, "decode": 0.2, "postprocess": 0.0, "service": 0.9}, 0.9, "forward"),
        ({"forward": 0.1, "decode": 0.2, "postprocess": 0.6, "service": 0.1}, 0.9, "postprocess"),
        ({"forward": 0.8, "decode": 0.1, "postprocess": 0.0, "service": 0.9}, 0.5, "forward"),
        ({"forward": 0.3, "decode": 0.1, "postprocess": 0.0, "service": 0.4}, 0.4, "waiting"),
    ],
)
def test_what_is_used_up_holds_back(busy, share, expected):
    assert bound_of(busy, share) == expected


def test_only_what_was_used_meanwhile_counts():
    watch = Watch()
    before, after = usage(100, forward_s=10), usage(300, forward_s=50, other_s=1)
    watch.observe([record("w", before), record("silent", None), record("idle", before)])
    watch.observe([record("w", after), record("idle", before)])
    (spent,) = watch.spent()
    assert (spent.images, spent.forward_s, spent.other_s) == (200, 40, 1)
    assert watch.ceiling() is None
    watch.settle(60, 2.0)
    watch.settle(60, 6.0)
    # A rate of 20 against 2 cores that need 0.2 s of one for an image.
    assert watch.ceiling() is not None
    assert watch.ceiling().share == pytest.approx(20 / 10)
    # A worker that was started anew under the same name.
    assert before.since(after).images == 0


async def test_a_folder_run_says_its_share_of_the_ceiling(service, digit_files, tmp_path):
    # Long enough for the worker to announce itself while it works.
    digit_folder = write_digits(tmp_path / "in", digit_files, 3000)
    async with AsyncClient(settings=service) as client:
        report = await run_folder(
            client, digit_folder, tmp_path / "out", task="classification", model="lenet-digits", settings=service
        )
    assert report.ceiling is not None
    assert report.ceiling.machines == 1
    assert report.ceiling.core_ms["decode"] > 0
    assert report.ceiling.core_ms["forward"] > 0
    assert report.ceiling.share == pytest.approx(report.images_per_s / report.ceiling.images_per_s, rel=0.01)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["ceiling"]["share"] == report.ceiling.share
    stream = io.StringIO()
    print_report(Console(file=stream, width=100), report)
    assert "of this machine's ceiling (" in stream.getvalue()
