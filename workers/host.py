"""One Celery worker process hosting one model: wiring, readiness, drain."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down
from kombu.entity import Queue

from models.catalog import Catalog, Entry
from models.devices import pick_device
from models.errors import ModelError
from visionpipe.errors import ModelLoadError, SettingsError, UnsupportedTaskError, VisionPipeError
from visionpipe.fetch import Fetcher
from visionpipe.queue import TASK_NAME, connect, keys, make_app
from visionpipe.schemas.jobs import Lane, WorkerRecord
from visionpipe.settings import Settings
from visionpipe.store import open_store
from workers.accepting import Acceptor
from workers.claims import CLAIM_TRY_S
from workers.compiler import Compiler, why_eager
from workers.cuda import settle
from workers.cuda_start import begin_on_cuda
from workers.device import device_memory, keep_freed_memory
from workers.engine import Engine, Parts
from workers.hosted import HostedModel
from workers.keeper import Keeper
from workers.metrics import Metrics, serve_http
from workers.outcome import ours
from workers.runtime import Runtime, make_runtimes
from workers.threads import FATAL_EXIT, vital
from workers.tickets import TicketConnection
from workers.usage import UsageMeter
from workers.version import version
from workers.warmup import enlarge, expected_rate, keep_fp32_unless_slower, warm_up
from workers.window import LaneOrder, Window

logger = logging.getLogger("visionpipe.host")

SWITCH_S = 0.0005
"""How long one Python thread may keep the others waiting."""
DEAF_S = 90
"""A worker that has not asked Redis for tickets for so long is not alive."""


@dataclass(frozen=True)
class HostOptions:
    """How to host a model."""

    model: str
    """``name`` or ``name@digest``."""
    redis_url: str
    device: str = "auto"
    precision: str = "auto"
    max_batch: int | None = None
    """Largest micro-batch, in images; ``None`` takes the card's, or less for as long as a step would take too long."""
    lanes: Sequence[Lane] = tuple(Lane)
    worker_id: str | None = None
    media_roots: dict[str, Path] = field(default_factory=dict)


class Host:
    """A worker process from start to end."""

    def __init__(self, options: HostOptions, settings: Settings) -> None:
        keep_freed_memory()
        # The thread that hears of interactive work must not wait 5 ms, Python's default, behind each decode thread.
        sys.setswitchinterval(SWITCH_S)
        # Celery warns root for the sake of pickle; this app takes JSON alone, and containers often run as root.
        warnings.filterwarnings("ignore", message="You're running the worker with superuser", category=SecurityWarning)
        self._options = options
        self._settings = settings
        self.worker = options.worker_id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._hosted, self._runtimes = load_model(options, settings)
        max_batch = warm_up(self._hosted, self._runtimes, options.max_batch)
        self._window = Window(max_batch, expected_rate(self._runtimes, max_batch))
        self._order = LaneOrder(self._window)
        self._metrics = Metrics(self._hosted.card.name)
        self._metrics.follow_held(lambda: self._window.held)
        store = open_store(settings, connect(options.redis_url))
        fetcher = Fetcher(store, settings, options.media_roots)
        parts = Parts(self._hosted, self._runtimes, store, fetcher, self._window, self._metrics)
        redis = connect(options.redis_url)
        self._engine = Engine(redis, connect(options.redis_url), self.worker, parts, settings, max_batch=max_batch)
        self._acceptor = Acceptor(self._engine, self._window)
        self._keeper = Keeper(
            connect(options.redis_url),
            self._record(max_batch),
            settings,
            store=store,
            held=self._engine.held,
            window=self._window,
            metrics=self._metrics,
            usage=UsageMeter(
                self._hosted.info.device,
                images=lambda: self._window.done_items,
                device_s=lambda: self._engine.batcher.busy_s,
            ).read,
            device_memory=lambda: device_memory(self._hosted.device.torch_device),
        )
        self._compiler = Compiler(
            self._hosted,
            self._runtimes,
            settings,
            between=self._engine.batcher.between,
            told=self._keeper.tell,
            quicker=self._enlarge,
        )
        self._app = self._make_app()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; gives the exit status, 0 unless Celery gave up by itself."""
        # What the start has made lives as long as the worker. Python looks through it for garbage now and then, which
        # stops every thread for a tenth of a second.
        gc.collect()
        gc.freeze()
        self._engine.batcher.start()
        self._acceptor.start()
        self._keeper.start()
        self._serve_http()
        vital("watchdog", self._watch).start()
        self._compiler.start()
        begin_on_cuda(
            self._hosted, self._runtimes, self._engine.batcher, settings=self._settings, told=self._keeper.tell
        )
        # Whoever listens to this signal keeps Celery from setting everybody's log level to its own.
        setup_logging.connect(lambda **_: None, weak=False)
        # Celery handles SIGTERM and SIGINT: its consumer stops, and start() returns.
        celery_worker = self._app.Worker(
            pool="threads",
            concurrency=1,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel="WARNING",
            quiet=True,
            hostname=f"{self.worker}@%h",
        )
        worker_ready.connect(lambda **_: self._on_ready(), weak=False)
        told = threading.Event()
        worker_shutting_down.connect(lambda **_: told.set(), weak=False)
        celery_worker.start()
        hurry = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: hurry.set())
        self._compiler.close()
        self._keeper.retire()
        self._acceptor.close(CLAIM_TRY_S)
        logger.info("draining: finishing %d images, at most %g s", self._window.held, self._settings.drain_s)
        self._engine.drain(self._settings.drain_s, hurry)
        self._keeper.close()
        return 0 if told.is_set() else int(celery_worker.exitcode or 0)

    def fault(self) -> str | None:
        """What keeps this worker from working, for the liveness probe."""
        if not self._engine.batcher.alive:
            return "the device thread is dead"
        if not self._engine.committer.alive:
            return "the commit thread is dead"
        silent = time.monotonic() - max(self._keeper.beat_at, 0.0)
        if silent > max(DEAF_S, 6 * self._settings.renew_s):
            return f"leases were last renewed {silent:.0f} s ago"
        deaf = time.monotonic() - self._order.consumed_at
        if deaf > DEAF_S:
            return f"Redis was last asked for work {deaf:.0f} s ago"
        return None

    def _on_ready(self) -> None:
        # Until then the first job would wait, and another worker may be there for it.
        if not self._engine.batcher.wait_warm(self._settings.hang_s):
            return  # The watchdog ends a worker whose device hangs.
        self._keeper.serve()
        info = self._hosted.info
        logger.info("ready: %s@%s on %s in %s as %s", info.name, info.digest, info.device, info.precision, self.worker)

    def _enlarge(self, tasks: Sequence[str], shape_CHW: tuple[int, ...]) -> Iterator[int]:
        """Try larger micro-batches for tasks that are faster now, unless a size was asked for."""
        if self._options.max_batch is None:
            batcher = self._engine.batcher
            for _ in enlarge(self._hosted, batcher, tasks, shape_CHW):
                self._keeper.tell(max_batch=batcher.limits.largest)
                yield batcher.limits.largest

    def _record(self, max_batch: int) -> WorkerRecord:
        info = self._hosted.info
        return WorkerRecord(
            worker=self.worker,
            model=info.name,
            digest=info.digest,
            tasks=list(self._runtimes),
            device=info.device,
            precision=info.precision,
            lanes=list(self._options.lanes),
            media_roots=sorted(self._options.media_roots),
            max_batch=max_batch,
            version=version(),
            started_at=time.time(),
        )

    def _make_app(self) -> Celery:
        app = make_app(self._options.redis_url, queue_order_strategy=lambda: self._order)
        app.amqp.Connection = TicketConnection
        info = self._hosted.info
        targets = (info.name, f"{info.name}@{info.digest}")
        names = [keys.lane_list(target, lane) for target in targets for lane in self._options.lanes]
        app.conf.task_queues = [Queue(name, exchange=None, routing_key=name) for name in names]
        app.conf.task_default_queue = names[0]

        @app.task(name=TASK_NAME, ignore_result=True, Strategy=self._acceptor.strategy)  # type: ignore[untyped-decorator]
        def accept(job: str) -> None:
            """Take the job that a ticket names; the strategy does, so that Celery's pool runs nothing."""
            self._engine.accept(job)

        return app

    def _serve_http(self) -> None:
        if self._settings.http_port is None:
            return
        host, port = self._settings.http_host, self._settings.http_port
        try:
            server = serve_http(
                host,
                port,
                self._metrics,
                is_alive=self.fault,
                is_ready=lambda: self._keeper.serving and self.fault() is None,
            )
        except OSError as error:
            raise SettingsError(
                f"Expected to listen on {host}:{port}, got: {error}. Use --http-port 0 for any free port."
            ) from error
        logger.info("http://%s:%d/metrics", *server.server_address[:2])

    def _watch(self) -> None:
        """End the process when a device step hangs; nothing less can free the device."""
        while True:
            started = self._engine.batcher.step_started
            if started is not None and time.monotonic() - started > self._settings.hang_s:
                logger.critical("a device step has taken more than %g s; the worker ends", self._settings.hang_s)
                os._exit(FATAL_EXIT)
            time.sleep(min(1.0, self._settings.hang_s / 4))


def load_model(options: HostOptions, settings: Settings) -> tuple[HostedModel, dict[str, Runtime]]:
    """Find a card, load its weights, settle on a precision and make its runtimes.

    Raises:
        UnknownModelError: No card has that name, or its digest is another.
        ModelLoadError: Card, code or weights cannot be loaded.
        UnsupportedTaskError: This version can do none of the card's tasks.
    """
    try:
        entry: Entry = Catalog(settings.models).find(options.model)
        settle(pick_device(options.device), memory=settings.cuda_memory, workers=settings.cuda_workers)
        hosted = HostedModel(entry, device=options.device)
    except ModelError as error:
        raised = ours(error)
        assert isinstance(raised, VisionPipeError)
        raise raised from error
    runtimes = make_runtimes(hosted)
    if not runtimes:
        raise UnsupportedTaskError(
            f"Expected {entry.name} to have a task that this version serves, its card has only: {entry.card.tasks}."
        )
    try:
        hosted.choose_precision(
            options.precision, lambda name: all(runtime.parity(name) for runtime in runtimes.values())
        )
    except ModelError as error:
        raise ModelLoadError(error.message, **error.details) from error
    if options.precision == "auto" and hosted.device.precision != "fp32":
        is_compiled = why_eager(hosted, runtimes, settings) is None
        keep_fp32_unless_slower(hosted, runtimes, options.max_batch, is_compiled=is_compiled)
    return hosted, runtimes
