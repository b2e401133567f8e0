"""The service that everybody writes first: Celery, one task an image, base64 in JSON, Celery's result backend."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from celery import Celery
from PIL import Image

URL = "VISIONPIPE_REDIS_URL"
THREADS = 2

app = Celery("naive", broker=os.environ.get(URL), backend=os.environ.get(URL))
app.conf.update(
    task_serializer="json", result_serializer="json", accept_content=["json"], worker_hijack_root_logger=False
)


@app.task(name="naive.classify")  # type: ignore[untyped-decorator]
def classify(document: str) -> dict[str, Any]:
    """Decode one image, and answer at once: its model costs nothing."""
    with Image.open(io.BytesIO(base64.b64decode(document))) as picture:
        picture.load()
        return {"label": "a", "score": 1.0, "size": picture.size}


class Naive:
    """A client of it.

    Args:
        url: Of its Redis.
    """

    def __init__(self, url: str) -> None:
        app.conf.update(broker_url=url, result_backend=url)

    def ask(self, image: bytes) -> None:
        """Submit one image and wait for its answer."""
        classify.delay(base64.b64encode(image).decode()).get(timeout=30)

    def idle_ms(self, image: bytes, number: int) -> list[float]:
        """Time one job after the other."""
        taken = []
        for _ in range(number):
            started = time.perf_counter()
            self.ask(image)
            taken.append((time.perf_counter() - started) * 1000)
        return taken

    def rate(self, images: Sequence[bytes], in_flight: int) -> float:
        """Jobs a second with so many in flight."""
        started = time.perf_counter()
        with ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(self.ask, images))
        return len(images) / (time.perf_counter() - started)


@contextmanager
def naive(url: str) -> Iterator[Naive]:
    """Start its worker on a Redis; yields a client when it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tests.bench.naive:app", "worker", "-P", "threads", "-c", str(THREADS),
         "--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"],
        env={**os.environ, URL: url},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = Naive(url)
        stream = io.BytesIO()
        Image.new("L", (8, 8)).save(stream, "PNG")
        client.ask(stream.getvalue())
        yield client
    finally:
        process.terminate()
        process.wait(60)
