"""Interactive latency, idle and while two-second bulk chunks saturate the worker: python -m tests.bench.latency.

Holds when the loaded p95 is at most the idle p95 and two micro-batches.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from tests.bench.common import Stack, pictures, quantile, stack, table
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import Lane

REQUESTS = 60


def interactive_ms(
    bench: Stack, image: bytes, number: int, stages: dict[str, list[float]] | None = None
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
        time.sleep(0.02)
    return taken


class Load:
    """Keeps two chunks of bulk work in the queue at all times."""

    def __init__(self, bench: Stack, images: list[bytes]) -> None:
        self._bench, self._images = bench, images
        self._stop = threading.Event()
        self.jobs: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        open_jobs: list[str] = []
        while not self._stop.is_set():
            open_jobs = [job for job in open_jobs if not self._bench.ended(job)]
            while len(open_jobs) < 4:
                open_jobs.append(self._bench.submit_blobs(self._images, Lane.BULK))
                self.jobs.append(open_jobs[-1])
            time.sleep(0.05)

    def micro_batch_ms(self) -> float:
        """The median device step of the bulk work."""
        steps = []
        for job in self.jobs:
            steps += [
                json.loads(item)["timings"]["forward_ms"] for item in run(self._bench.redis, calls.read_items(job))
            ]
        return quantile(steps, 0.5)

    def stop(self) -> None:
        """End the load."""
        self._stop.set()
        self._thread.join()


def measure(model: str) -> list[object]:
    """Measure one model."""
    with stack(model) as bench:
        images = pictures(model, 2000)
        interactive_ms(bench, images[0], 20)
        started = time.perf_counter()
        bench.wait(bench.submit_blobs(images[:200], Lane.BULK))
        rate = 200 / (time.perf_counter() - started)
        idle = interactive_ms(bench, images[0], REQUESTS)
        load = Load(bench, images[: max(8, min(2000, round(2 * rate)))])
        time.sleep(6)
        stages: dict[str, list[float]] = {}
        loaded = interactive_ms(bench, images[0], REQUESTS, stages)
        load.stop()
        step = load.micro_batch_ms()
    bound = quantile(idle, 0.95) + 2 * step
    holds = "yes" if quantile(loaded, 0.95) <= bound else "NO"
    quantiles = [quantile(times, share) for times in (idle, loaded) for share in (0.5, 0.95)]
    where = " ".join(f"{name} {quantile(times, 0.5):.1f}/{quantile(times, 0.95):.1f}" for name, times in stages.items())
    return [model, *quantiles, step, bound, holds, where]


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
        "holds",
        "loaded p50/p95 by stage",
    ]
    table("Interactive latency, ms", head, [measure(model) for model in models])


if __name__ == "__main__":
    main()
