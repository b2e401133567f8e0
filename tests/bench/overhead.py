"""Our overhead beside a naive Celery service, with a model that costs nothing: python -m tests.bench.overhead.

Both have one worker process on the same Redis and decode the same image. Rounds of both alternate; medians are told.
"""

from __future__ import annotations

import asyncio
import io
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.common import Stack, quantile, stack, table
from tests.bench.naive import Naive, naive
from visionpipe.aclient import AsyncClient
from visionpipe.client import Client

ROUNDS = 5
IDLE, BUSY, IN_FLIGHT, MAPPED = 200, 1500, 32, 10_000
CARD = """
name = "nothing"
tasks = ["classification"]
network = "net:Nothing"
labels = ["a", "b"]
licence = "Apache-2.0"
[hooks]
preprocess = "net:blank"
[serving]
max_batch = 64
[provenance]
origin = "answers at once, for measuring only"
"""
NETWORK = """
import torch

class Nothing(torch.nn.Module):
    def forward(self, x):
        return torch.zeros(len(x), 2)

def blank(picture):
    return torch.zeros(1, 1, 1)
"""


def write_nothing(folder: Path) -> None:
    """Write a user model that costs nothing."""
    (folder / "nothing").mkdir()
    (folder / "nothing" / "card.toml").write_text(CARD)
    (folder / "nothing" / "net.py").write_text(NETWORK)


def picture(size_bytes: int) -> bytes:
    """Make a PNG of about that size."""
    side = max(4, round((size_bytes - 60) ** 0.5))
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class Ours:
    """A client of the service."""

    def __init__(self, bench: Stack) -> None:
        self._url = bench.settings.redis_url or ""
        self._settings = bench.settings

    def idle_ms(self, image: bytes, number: int) -> list[float]:
        """Time one job after the other."""
        taken = []
        with Client(self._url, settings=self._settings) as client:
            client.classify(image, model="nothing")
            for _ in range(number):
                started = time.perf_counter()
                client.classify(image, model="nothing")
                taken.append((time.perf_counter() - started) * 1000)
        return taken

    def rate(self, images: Sequence[bytes], in_flight: int) -> float:
        """Jobs a second with so many in flight."""
        return asyncio.run(self._rate(images, in_flight))

    async def _rate(self, images: Sequence[bytes], in_flight: int) -> float:
        waiting = iter(images)

        async def ask(client: AsyncClient) -> None:
            for image in waiting:
                await client.classify(image, model="nothing")

        async with AsyncClient(self._url, settings=self._settings) as client:
            await client.classify(images[0], model="nothing")
            started = time.perf_counter()
            await asyncio.gather(*(ask(client) for _ in range(in_flight)))
            return len(images) / (time.perf_counter() - started)

    def map_rate(self, images: Sequence[bytes]) -> float:
        """Images a second through ``map``."""
        with Client(self._url, settings=self._settings) as client:
            started = time.perf_counter()
            done = sum(item.ok for item in client.map("classification", images, model="nothing"))
            assert done == len(images)
            return len(images) / (time.perf_counter() - started)


def rounds(ours: Ours, other: Naive, size_bytes: int) -> list[object]:
    """Measure both in turns with one size of image."""
    image = picture(size_bytes)
    idle: dict[str, list[float]] = {"ours": [], "naive": []}
    rate: dict[str, list[float]] = {"ours": [], "naive": []}
    for _ in range(ROUNDS):
        for name, service in (("ours", ours), ("naive", other)):
            idle[name].append(quantile(service.idle_ms(image, IDLE), 0.5))
            rate[name].append(service.rate([image] * BUSY, IN_FLIGHT))
    p50 = {name: statistics.median(values) for name, values in idle.items()}
    jobs = {name: statistics.median(values) for name, values in rate.items()}
    return [
        f"{len(image) / 1000:.0f} kB", p50["ours"], p50["naive"], p50["ours"] / p50["naive"],
        jobs["ours"], jobs["naive"], jobs["ours"] / jobs["naive"],
    ]  # fmt: skip


def main() -> None:
    """Print the tables."""
    with stack("nothing", "--precision", "fp32", write=write_nothing) as bench, naive(bench.naive_url) as other:
        ours = Ours(bench)
        rows = [rounds(ours, other, size_bytes) for size_bytes in (1_000, 200_000)]
        mapped = statistics.median(ours.map_rate([picture(1_000)] * MAPPED) for _ in range(ROUNDS))
    head = ["image", "p50 ms", "naive p50 ms", "ratio", f"jobs/s, {IN_FLIGHT} in flight", "naive jobs/s", "ratio"]
    table(f"Overhead, medians of {ROUNDS} interleaved rounds", head, rows)
    table("map over tiny images", ["images", "images/s"], [[MAPPED, mapped]])


if __name__ == "__main__":
    main()
