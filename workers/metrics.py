"""What a worker counts, and the little HTTP server that shows it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from visionpipe.schemas.jobs import Lane
from workers.work import HeldJob, Work

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MILLISECONDS = [1000 * seconds for seconds in _SECONDS]
_BOUNDS = [*(str(float(seconds)) for seconds in _SECONDS), "+Inf"]
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
        self._stages = StageTimes(model)
        registry.register(self._stages)
        self._batch = Histogram(
            "visionpipe_batch_size", "Images in a micro-batch", ["model"], buckets=_SIZES, registry=registry
        )
        self._held = Gauge(
            "visionpipe_held_items", "Images claimed and without an outcome", ["model"], registry=registry
        )
        self._lost = Counter("visionpipe_lost_jobs", "Jobs that another worker took over", ["model"], registry=registry)
        # The library looks a metric up by its labels under a lock, which is too slow to be done for each image.
        self._items_of = cache(self._make_item)

    def count(self, job: HeldJob, left: Sequence[tuple[Work, bool]]) -> None:
        """Count the outcomes and times of a job's images that left the worker, each with whether it has a result."""
        num_done = sum([ok for _, ok in left])
        for outcome, num_items in (("done", num_done), ("failed", len(left) - num_done)):
            if num_items:
                self._items_of(job.request.task, job.lane, outcome).inc(num_items)
        self._stages.observe([work.times_ms for work, _ in left], job.claim.waited_ms)

    def _make_item(self, task: str, lane: Lane, outcome: str) -> Counter:
        return self._items.labels(self._model, task, str(lane), outcome)

    def count_batch(self, num_items: int) -> None:
        """Count one micro-batch."""
        self._batch.labels(self._model).observe(num_items)

    def count_lost(self) -> None:
        """Count a job that is no longer held here."""
        self._lost.labels(self._model).inc()

    def follow_held(self, read: Callable[[], int]) -> None:
        """Read the number of held images whenever somebody looks."""
        self._held.labels(self._model).set_function(lambda: float(read()))


class StageTimes(Collector):
    """A histogram of the time of one image in each stage.

    The library's own takes a lock for each of the seven stages of each image, which costs more than a tiny network.

    Args:
        model: Label of every sample.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(_SECONDS) + 1))
        self._sums_ms: defaultdict[str, float] = defaultdict(float)

    def observe(self, times_ms: Sequence[Mapping[str, float]], queue_ms: float) -> None:
        """Count the times of some images, all of which waited in the queue for as long."""
        counts, sums_ms = self._counts, self._sums_ms
        with self._lock:
            counts["queue_ms"][bisect_left(_MILLISECONDS, queue_ms)] += len(times_ms)
            sums_ms["queue_ms"] += queue_ms * len(times_ms)
            for stages in times_ms:
                for name, value_ms in stages.items():
                    counts[name][bisect_left(_MILLISECONDS, value_ms)] += 1
                    sums_ms[name] += value_ms

    def collect(self) -> Iterator[Metric]:
        """Give the samples."""
        family = HistogramMetricFamily(
            "visionpipe_stage_seconds", "Time of one image in a stage", labels=["model", "stage"]
        )
        with self._lock:
            for name, counts in self._counts.items():
                buckets = list(zip(_BOUNDS, map(float, accumulate(counts)), strict=True))
                family.add_metric([self._model, name.removesuffix("_ms")], buckets, self._sums_ms[name] / 1000)
        yield family


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
