"""What threads use of the cores is told apart by what they do."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from visionpipe.machine import usable_cores
from workers.usage import UsageMeter, kind_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of single threads")


def burn(seconds: float, then: threading.Event) -> None:
    """Use a core for so long, and stay."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
    then.wait(10)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("decode-bulk-1", "decode_s"),
        ("device", "forward_s"),
        ("finish-interactive-0", "postprocess_s"),
        ("commit", "other_s"),
    ],
)
def test_the_time_of_a_thread_counts_for_its_stage(name, stage):
    meter = UsageMeter("cpu", images=lambda: 3, device_s=lambda: 1.5)
    before = meter.read()
    done = threading.Event()
    thread = threading.Thread(target=burn, args=(0.1, done), name=name)
    thread.start()
    deadline = time.monotonic() + 10
    while (used := getattr(meter.read(), stage) - getattr(before, stage)) < 0.09 and time.monotonic() < deadline:
        time.sleep(0.02)
    done.set()
    thread.join()
    after = meter.read()
    assert used >= 0.09
    # What ended threads have used is not forgotten.
    assert getattr(after, stage) - getattr(before, stage) >= 0.09
    assert (after.images, after.device_s, after.cores) == (3, 1.5, usable_cores())


def test_a_system_that_tells_nothing_gives_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("workers.usage.TASKS", tmp_path / "none")
    assert UsageMeter("cpu", images=lambda: 0, device_s=lambda: 0.0).read() is None


def test_unknown_threads_are_bookkeeping():
    assert [kind_of(name) for name in ("decode-bulk-0", "finish-bulk-0", "device", "keeper", "MainThread")] == [
        "decode", "postprocess", "forward", "other", "other",
    ]  # fmt: skip
