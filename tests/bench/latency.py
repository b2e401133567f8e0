"""Interactive latency, idle and while a folder run saturates the worker: python -m tests.bench.latency.

The worker has compiled its network before. It holds when the loaded p95 is at most the idle p95 and one and a half
micro-batches, and when the run loses at most 5 % of its images a second to requests half a second apart, in many short
rounds, each between two stretches without. The loss has its standard error: a shared machine's pace differs by a sixth
from one stretch to the next.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.common import Stack, pictures, quantile, service_run, stack, start_run, table, write_folder
from tests.helpers.deployed import free_port
from visionpipe.client import Client
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import Lane

T = TypeVar("T")

REQUESTS = 60
REQUEST_S = 60
EVERY_S = 0.5
"""How long after an answer somebody asks again while the run goes on."""
TRIAL_S = 10
"""How long a first run takes, by a rough measure, that tells how large the load has to be."""
RUN_S = 360
"""How long the load would take alone."""
ROUNDS = 60
"""Many and short, since the pace of a shared machine changes within seconds."""
ASKED = 4
"""Requests in a round."""
STRETCH_S = 2.0
"""How long the run goes on alone before, between and after the rounds."""
MICRO_BATCHES = 1.5
LOSS = 0.05


def interactive_ms(
    bench: Stack,
    client: Client,
    image: bytes,
    number: int,
    stages: dict[str, list[float]] | None = None,
    every_s: float = 0.02,
) -> list[float]:
    """Time single requests of a client, one after the other, from the call to the typed result."""
    taken = []
    for _ in range(number):
        started = time.perf_counter()
        job = client.submit("classification", image, model=bench.model)
        job.result(REQUEST_S)
        taken.append((time.perf_counter() - started) * 1000)
        timings = json.loads(run(bench.redis, calls.read_items(job.id))[0])["timings"]
        timings["other_ms"] = taken[-1] - sum(value for name, value in timings.items() if name.endswith("_ms"))
        for name, value in timings.items():
            if stages is not None and name.endswith("_ms"):
                stages.setdefault(name.removesuffix("_ms"), []).append(value)
        time.sleep(every_s)
    return taken


class Load:
    """A folder run in a process of its own, as large as the worker needs to stay busy."""

    def __init__(self, bench: Stack, encoded: list[bytes], number: int, port: int) -> None:
        self._bench, self._port = bench, port
        folder = bench.root / "run"
        write_folder(folder, encoded, number)
        self._process = start_run(bench, folder, bench.root.parent / "load")

    def wait_until_busy(self) -> None:
        """Wait until the run's chunks have grown to two seconds of work."""
        while not any(record.held_items for record in run(self._bench.redis, calls.workers())):
            self._check()
            time.sleep(0.1)
        time.sleep(8)

    def rate(self, during: Callable[[], T]) -> tuple[float, T]:
        """Bulk images a second that leave the worker during something, and what that gives."""
        begun, before = time.monotonic(), self._left()
        told = during()
        self._check()
        return (self._left() - before) / (time.monotonic() - begun), told

    def _left(self) -> float:
        with urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = (sample for family in families for sample in family.samples)
        return sum(
            sample.value
            for sample in samples
            if sample.name == "visionpipe_items_total" and sample.labels["lane"] == Lane.BULK
        )

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


def lost(rounds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Which share of its images a second the run lost in all rounds, and the standard error (jackknife).

    Args:
        rounds: Rates beside requests, and alone before and after.
    """
    beside, alone = map(sum, zip(*rounds, strict=True))
    others = [1 - (beside - one) / (alone - other) for one, other in rounds]
    number = len(rounds)
    return 1 - beside / alone, (number - 1) ** 0.5 * statistics.pstdev(others)


def measure(model: str) -> list[object]:
    """Measure one model."""
    port = free_port()
    with (
        stack(model, "--http-port", str(port), compiling="now") as bench,
        Client(settings=bench.settings) as client,
    ):
        bench.wait_compiled()
        images = pictures(model, 200)
        interactive_ms(bench, client, images[0], 20)
        started = time.perf_counter()
        bench.wait(bench.submit_blobs(images, Lane.BULK))
        rough = len(images) / (time.perf_counter() - started)
        trial = bench.root / "trial"
        write_folder(trial, images[:64], round(TRIAL_S * rough))
        rate = service_run(bench, trial, "classification")
        idle = interactive_ms(bench, client, images[0], REQUESTS)
        load = Load(bench, images[:64], round(RUN_S * rate), port)
        load.wait_until_busy()
        stages: dict[str, list[float]] = {}
        loaded: list[float] = []
        ask = partial(interactive_ms, bench, client, images[0], ASKED, stages, EVERY_S)
        alone, _ = load.rate(partial(time.sleep, STRETCH_S))
        rounds: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            beside, taken = load.rate(ask)
            loaded += taken
            before, (alone, _) = alone, load.rate(partial(time.sleep, STRETCH_S))
            rounds.append((beside, statistics.mean((before, alone))))
        step = load.micro_batch_ms()
        load.stop()
    bound = quantile(idle, 0.95) + MICRO_BATCHES * step
    loss, error = lost(rounds)
    holds = "yes" if quantile(loaded, 0.95) <= bound and loss <= LOSS else "NO"
    quantiles = [quantile(times, share) for times in (idle, loaded) for share in (0.5, 0.95)]
    where = " ".join(f"{name} {quantile(times, 0.5):.1f}/{quantile(times, 0.95):.1f}" for name, times in stages.items())
    beside, alone = (statistics.mean(rates) for rates in zip(*rounds, strict=True))
    run_lost = f"{alone:.0f}, {beside:.0f}/s: {loss:.1%} +- {error:.1%}"
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
        "run alone, beside: lost",
        "holds",
        "loaded p50/p95 by stage",
    ]
    table("Interactive latency, ms", head, [measure(model) for model in models])


if __name__ == "__main__":
    main()
