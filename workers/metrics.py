"""What a worker counts, and the little HTTP server that shows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from visionpipe.schemas.jobs import Lane
from workers.work import Work

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """One worker's Prometheus metrics.

    Args:
        model: Label of every metric.
    """

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        self._model = model
        registry = self.registry
        self._items = Counter(
            "visionpipe_items", "Images with an outcome", ["model", "task", "lane", "outcome"], registry=registry
        )
        self._stage = Histogram(
            "visionpipe_stage_seconds",
            "Time of one image in a stage",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "visionpipe_batch_size", "Images in a micro-batch", ["model"], buckets=_SIZES, registry=registry
        )
        self._held = Gauge(
            "visionpipe_held_items", "Images claimed and without an outcome", ["model"], registry=registry
        )
        self._lost = Counter("visionpipe_lost_jobs", "Jobs that another worker took over", ["model"], registry=registry)
        # The library looks a metric up by its labels under a lock, which is too slow to be done for each image.
        self._items_of, self._stage_of = cache(self._make_item), cache(self._make_stage)

    def count(self, work: Work, *, ok: bool) -> None:
        """Count one image's outcome and times."""
        self._items_of(work.request.task, work.job.lane, "done" if ok else "failed").inc()
        self._stage_of("queue_ms").observe(work.job.claim.waited_ms / 1000)
        for name, value in work.times_ms.items():
            self._stage_of(name).observe(value / 1000)

    def _make_item(self, task: str, lane: Lane, outcome: str) -> Counter:
        return self._items.labels(self._model, task, str(lane), outcome)

    def _make_stage(self, name: str) -> Histogram:
        return self._stage.labels(self._model, name.removesuffix("_ms"))

    def count_batch(self, num_items: int) -> None:
        """Count one micro-batch."""
        self._batch.labels(self._model).observe(num_items)

    def count_lost(self) -> None:
        """Count a job that is no longer held here."""
        self._lost.labels(self._model).inc()

    def follow_held(self, read: Callable[[], int]) -> None:
        """Read the number of held images whenever somebody looks."""
        self._held.labels(self._model).set_function(lambda: float(read()))


def serve_http(
    host: str, port: int, metrics: Metrics, *, is_alive: Callable[[], str | None], is_ready: Callable[[], bool]
) -> ThreadingHTTPServer:
    """Serve ``/healthz``, ``/readyz`` and ``/metrics`` from a daemon thread.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        metrics: What to show.
        is_alive: Answers what is wrong, or ``None``.
        is_ready: Whether jobs are taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, generate_latest(metrics.registry), CONTENT_TYPE_LATEST)
            elif self.path == "/healthz":
                fault = is_alive()
                self._answer(503 if fault else 200, (fault or "ok").encode())
            elif self.path == "/readyz":
                ready = is_ready()
                self._answer(200 if ready else 503, b"ready" if ready else b"not ready")
            else:
                self._answer(404, b"try /healthz, /readyz or /metrics")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Probes every few seconds are not news."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
