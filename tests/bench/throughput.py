"""Bulk through the real queue against a bare loop over the same files: python -m tests.bench.throughput.

Both decode and preprocess with the same functions, compute in fp32 and in batches of the same size, one after the
other in one run. The bare loop has two threads of torch and decodes in its one thread, as most scripts do.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from models.catalog import Catalog
from models.images import decode
from models.loading import load
from models.preprocess import Preprocess
from tests.bench.common import Stack, pictures, quantile, stack, table
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import Lane

CHUNK_S = 2.0
STAGES = ("fetch_ms", "decode_ms", "preprocess_ms", "batch_wait_ms", "forward_ms", "postprocess_ms")


class Bare:
    """The loop that everybody would write."""

    def __init__(self, model: str, models: Path) -> None:
        entry = Catalog(models).find(model)
        self._network = load(entry)
        self._preprocess = Preprocess(entry.card.preprocess)

    @torch.inference_mode()
    def rate(self, paths: Sequence[Path], batch: int) -> float:
        """Images a second."""
        started = time.perf_counter()
        for start in range(0, len(paths), batch):
            inputs = [
                self._preprocess(decode(path.read_bytes(), max_bytes=2**28, max_pixels=2**28).image)
                for path in paths[start : start + batch]
            ]
            self._network(torch.stack(inputs)).softmax(1).topk(5)
        return len(paths) / (time.perf_counter() - started)


def queue_rate(bench: Stack, number: int, chunk: int, submit: Callable[[int, int], str]) -> tuple[float, list[str]]:
    """Images a second through the queue, with three chunks in it at all times."""
    started = time.perf_counter()
    jobs = []
    for start in range(0, number, chunk):
        if len(jobs) >= 3:
            bench.wait(jobs[-3], every_s=0.005)
        jobs.append(submit(start, min(start + chunk, number)))
    for job in jobs[-3:]:
        bench.wait(job, every_s=0.005)
    return number / (time.perf_counter() - started), jobs


def stages(bench: Stack, job: str) -> str:
    """The median time of each stage of one job's images."""
    timings = [json.loads(item)["timings"] for item in run(bench.redis, calls.read_items(job))]
    return " ".join(f"{name[:-3]} {quantile([timing[name] for timing in timings], 0.5):.2f}" for name in STAGES)


def measure(model: str, number: int) -> list[list[object]]:
    """Measure one model by media root and by blob."""
    with stack(model, "--precision", "fp32") as bench:
        images = pictures(model, number)
        paths = [bench.root / f"{index:05}.img" for index in range(number)]
        for path, data in zip(paths, images, strict=True):
            path.write_bytes(data)
        batch = run(bench.redis, calls.workers())[0].max_batch
        bare = Bare(model, bench.root.parent / "models")
        bare.rate(paths[:64], batch)
        bare_before = bare.rate(paths, batch)
        chunk = max(8, min(2000, round(CHUNK_S * bare_before)))

        def by_file(start: int, end: int) -> str:
            return bench.submit_files(paths[start:end], Lane.BULK)

        def by_blob(start: int, end: int) -> str:
            return bench.submit_blobs(images[start:end], Lane.BULK)

        queue_rate(bench, min(number, 2 * chunk), chunk, by_file)
        found = [
            (name, *queue_rate(bench, number, chunk, submit))
            for name, submit in (("media root", by_file), ("blobs", by_blob))
        ]
        bare_rate = max(bare_before, bare.rate(paths, batch))
        return [
            [model, name, batch, chunk, bare_rate, rate, rate / bare_rate, stages(bench, jobs[-2])]
            for name, rate, jobs in found
        ]


def main() -> None:
    """Print the table."""
    wanted = sys.argv[1:] or ["lenet-digits", "resnet18-generated"]
    rows = [row for model in wanted for row in measure(model, 6_000 if model == "lenet-digits" else 240)]
    head = ["model", "pixels", "batch", "chunk", "bare/s", "queue/s", "ratio", "median ms of each stage"]
    table("Bulk throughput, fp32", head, rows)


if __name__ == "__main__":
    main()
