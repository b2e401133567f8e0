"""Interactive latency, idle and while a folder run saturates the worker: python -m tests.bench.latency.

It holds when the loaded p95 is at most the idle p95 and one and a half micro-batches, and when the run, between two
stretches of its own, loses at most 5 % of its images a second to one request every half second.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from tests.bench.common import Stack, pictures, quantile, service_run, stack, start_run, table, write_folder
from visionpipe.queue import calls, run
from visionpipe.runs.ledger import LEDGER_NAME
from visionpipe.schemas.jobs import Lane

T = TypeVar("T")

REQUESTS = 60
EVERY_S = 0.5
"""How often somebody asks while the run goes on."""
TRIAL_S = 10
"""How long a first run takes, by a rough measure, that tells how large the load has to be."""
RUN_S = 150
"""How long the load would take alone."""
ALONE_S = 15.0
"""How long the run goes on alone, before and after."""
MICRO_BATCHES = 1.5
LOSS = 0.05


def interactive_ms(
    bench: Stack, image: bytes, number: int, stages: dict[str, list[float]] | None = None, every_s: float = 0.02
) -> list[float]:
    """Time single requests one after the other, from submit to the record that says done."""
    taken = []
    for _ in range(number):
        started = time.perf_counter()
        job = bench.submit_blobs([image], Lane.INTERACTIVE)
        bench.wait(job)
        taken.append((time.perf_counter() - started) * 1000)
        timings = json.loads(run(bench.redis, calls.read_items(job))[0])["timings"]
        timings["other_ms"] = taken[-1] - sum(value for name, value in timings.items() if name.endswith("_ms"))
        for name, value in timings.items():
            if stages is not None and name.endswith("_ms"):
                stages.setdefault(name.removesuffix("_ms"), []).append(value)
        time.sleep(every_s)
    return taken


class Load:
    """A folder run in a process of its own, as large as the worker needs to stay busy."""

    def __init__(self, bench: Stack, encoded: list[bytes], number: int) -> None:
        self._bench = bench
        folder = bench.root / "run"
        write_folder(folder, encoded, number)
        self._out = out = bench.root.parent / "load"
        self._process = start_run(bench, folder, out)

    def wait_until_busy(self) -> None:
        """Wait until the run's chunks have grown to two seconds of work."""
        while not any(record.held_items for record in run(self._bench.redis, calls.workers())):
            self._check()
            time.sleep(0.1)
        time.sleep(8)

    def rate(self, during: Callable[[], T]) -> tuple[float, T]:
        """Images a second that the run settles during something, and what that gives."""
        begun, before = time.monotonic(), self._settled()
        told = during()
        return (self._settled() - before) / (time.monotonic() - begun), told

    def _settled(self) -> int:
        # Chunks settle whole, so the count is taken just after one.
        with closing(sqlite3.connect(self._out / LEDGER_NAME)) as ledger:
            first = now = self._count(ledger)
            while now == first:
                self._check()
                time.sleep(0.01)
                now = self._count(ledger)
        return now

    def _count(self, ledger: sqlite3.Connection) -> int:
        return int(ledger.execute("SELECT COALESCE(SUM(settled), 0) FROM sittings").fetchone()[0])

    def micro_batch_ms(self) -> float:
        """The median device step of the bulk work."""
        steps: list[float] = []
        for key in self._bench.redis.scan_iter("vp:items:run-*"):
            steps += [json.loads(item)["timings"]["forward_ms"] for item in self._bench.redis.hvals(key)[:200]]
        return quantile(steps, 0.5)

    def stop(self) -> None:
        """End the load, which must not have ended before."""
        self._check()
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)

    def _check(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError("the folder run was too short")


def measure(model: str) -> list[object]:
    """Measure one model."""
    with stack(model) as bench:
        images = pictures(model, 200)
        interactive_ms(bench, images[0], 20)
        started = time.perf_counter()
        bench.wait(bench.submit_blobs(images, Lane.BULK))
        rough = len(images) / (time.perf_counter() - started)
        trial = bench.root / "trial"
        write_folder(trial, images[:64], round(TRIAL_S * rough))
        rate = service_run(bench, trial, "classification")
        idle = interactive_ms(bench, images[0], REQUESTS)
        load = Load(bench, images[:64], round(RUN_S * rate))
        load.wait_until_busy()
        stages: dict[str, list[float]] = {}
        before, _ = load.rate(lambda: time.sleep(ALONE_S))
        shared, loaded = load.rate(lambda: interactive_ms(bench, images[0], REQUESTS, stages, EVERY_S))
        after, _ = load.rate(lambda: time.sleep(ALONE_S))
        step = load.micro_batch_ms()
        load.stop()
    bound = quantile(idle, 0.95) + MICRO_BATCHES * step
    loss = 1 - shared / statistics.mean((before, after))
    holds = "yes" if quantile(loaded, 0.95) <= bound and loss <= LOSS else "NO"
    quantiles = [quantile(times, share) for times in (idle, loaded) for share in (0.5, 0.95)]
    where = " ".join(f"{name} {quantile(times, 0.5):.1f}/{quantile(times, 0.95):.1f}" for name, times in stages.items())
    run_lost = f"{before:.0f}, {shared:.0f}, {after:.0f}/s: {loss:.1%}"
    return [model, *quantiles, step, bound, run_lost, holds, where]


def main() -> None:
    """Print the table."""
    models = sys.argv[1:] or ["lenet-digits", "resnet18-generated"]
    head = [
        "model",
        "idle p50",
        "idle p95",
        "loaded p50",
        "loaded p95",
        "micro-batch",
        "bound",
        "run before, beside, after: lost",
        "holds",
        "loaded p50/p95 by stage",
    ]
    table("Interactive latency, ms", head, [measure(model) for model in models])


if __name__ == "__main__":
    main()
