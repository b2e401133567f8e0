"""Keeps a worker's promises to the queue: leases renewed, presence announced, stops heard, the queue swept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import psutil
from redis import Redis
from redis.exceptions import RedisError

from visionpipe.errors import QueueUnavailableError, ServiceError
from visionpipe.queue import calls, keys, run
from visionpipe.queue.sweeping import Sweeper
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import JobState, Usage, WorkerRecord
from visionpipe.settings import Settings
from visionpipe.store import Store
from workers.metrics import Metrics
from workers.threads import vital
from workers.window import Window
from workers.work import HeldJob

logger = logging.getLogger("visionpipe.keeper")

LISTEN_S = 1.0
"""How long to wait for a cancelled job before looking at the clock again; less than any socket's patience."""
COLLECT_EVERY_S = 3600
"""How often expired values are removed from an external store."""

_STOPS = {"cancelled": JobState.CANCELLED, "expired": JobState.EXPIRED}


class Keeper:
    """One thread beside the work.

    Args:
        redis: Its own connection pool.
        record: What to announce; counts are filled in.
        settings: How often.
        store: Where ended jobs' pixels are deleted from, if it is not Redis.
        held: Gives the jobs that this worker holds.
        window: For rate and counts.
        metrics: Where lost jobs are counted.
        usage: Tells what the worker has used so far.
        device_memory: Tells the most memory of a GPU that it has reserved, in bytes.
    """

    def __init__(
        self,
        redis: Redis,
        record: WorkerRecord,
        settings: Settings,
        *,
        store: Store,
        held: Callable[[], list[HeldJob]],
        window: Window,
        metrics: Metrics,
        usage: Callable[[], Usage | None] = lambda: None,
        device_memory: Callable[[], int] = lambda: 0,
    ) -> None:
        self._redis = redis
        self._record = record
        self._settings = settings
        self._store = store
        self._held = held
        self._window = window
        self._metrics = metrics
        self._usage = usage
        self._device_memory = device_memory
        self._told_items = 0
        self._process = psutil.Process()
        self._serving = threading.Event()
        self._closing = threading.Event()
        self._announcing = threading.Lock()
        self._thread = vital("keeper", self._run)
        self._sweeper = Sweeper(redis, settings)
        self.beat_at = time.monotonic()

    def start(self) -> None:
        """Begin to renew and to sweep; nothing is announced yet."""
        self._thread.start()
        if self._store.external:
            threading.Thread(target=self._clean, name="janitor", daemon=True).start()

    def tell(self, code: str | None = None, *, max_batch: int | None = None) -> None:
        """Announce from now on how the network is run, or how large a micro-batch may be; see ``WorkerRecord``."""
        changed = {"code": code, "max_batch": max_batch}
        changed = {name: value for name, value in changed.items() if value is not None}
        self._record = self._record.model_copy(update=changed)

    def serve(self) -> None:
        """Announce the worker, now and from now on."""
        self._serving.set()
        try:
            self._announce()
        except ServiceError as error:
            logger.warning("not announced yet; trying again: %s", error)

    def retire(self) -> None:
        """Announce nothing any more."""
        self._serving.clear()
        try:
            with self._announcing:
                run(self._redis, calls.retire(self._record))
        except ServiceError as error:
            logger.warning("could not retire: %s", error)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2 * LISTEN_S)

    @property
    def serving(self) -> bool:
        """Whether the worker is announced."""
        return self._serving.is_set()

    def _run(self) -> None:
        renew_at = time.monotonic()
        while not self._closing.is_set():
            now = time.monotonic()
            try:
                if now >= renew_at:
                    self._renew()
                    self._announce()
                    renew_at = now + self._settings.renew_s
                    self.beat_at = now
                elif self._window.done_items != self._told_items:
                    # Whoever sizes chunks, or says what holds a short run back, needs to know how it goes.
                    self._announce()
                self._sweep(now)
                self._expire(now)
                self._listen(min(renew_at, self._sweeper.due_at, *self._deadlines()) - time.monotonic())
            except (ServiceError, RedisError, OSError) as error:
                self._sweeper.note_silence()
                logger.warning("the queue or the store does not answer; trying again: %s", error)
                self._closing.wait(min(1.0, self._settings.renew_s))

    def _listen(self, timeout_s: float) -> None:
        """Wait for a cancelled job's id, at most so long."""
        wait_s = min(max(timeout_s, 0.01), LISTEN_S)
        answer = self._redis.blpop([keys.control(self._record.worker)], timeout=wait_s)
        if answer is not None:
            for job in self._held():
                if job.claim.job.encode() == answer[1]:
                    job.stop(JobState.CANCELLED)

    def _deadlines(self) -> list[float]:
        return [job.deadline for job in self._held() if job.deadline is not None and job.stopped is None]

    def _expire(self, now: float) -> None:
        for job in self._held():
            if job.stopped is None and job.deadline is not None and job.deadline <= now:
                job.stop(JobState.EXPIRED)

    def _renew(self) -> None:
        held = [job for job in self._held() if not job.lost]
        if not held:
            return
        pairs = [(job.claim.job, job.claim.token) for job in held]
        answers = run(self._redis, calls.renew(pairs, self._settings))
        for job, answer in zip(held, answers, strict=True):
            if answer == "lost":
                # It may just have ended: a commit on its way looks the same from here.
                if job.open_items:
                    logger.warning("job %s is held elsewhere now", job.claim.job)
                    self._metrics.count_lost()
                job.lost = True
            elif answer in _STOPS:
                job.stop(_STOPS[answer])

    def _announce(self) -> None:
        self._told_items = self._window.done_items
        told = {
            "rate": self._window.rate,
            "held_items": self._window.held,
            "done_items": self._window.done_items,
            "rss_bytes": self._process.memory_info().rss,
            "device_memory_bytes": self._device_memory(),
            "usage": self._usage(),
        }
        with self._announcing:
            if self._serving.is_set():
                run(self._redis, calls.announce(self._record.model_copy(update=told), self._settings))

    def _sweep(self, now: float) -> None:
        swept = self._sweeper.sweep(now)
        if swept is not None and any(swept):
            logger.info("swept: %d leases lapsed, %d jobs expired, %d tickets rewritten, %d broken records", *swept)

    def _clean(self) -> None:
        """Keep an external store: apart from the leases, since it may be slow."""
        collect_at = time.monotonic()
        while not self._closing.wait(self._settings.sweep_s):
            now = time.monotonic()
            try:
                self._touch(now)
                self._delete(run(self._redis, calls.gc()))
                if now >= collect_at:
                    self._store.gc()
                    collect_at = now + COLLECT_EVERY_S
            except (ServiceError, ValueError) as error:
                logger.warning("pixels of ended jobs were not deleted: %s", error)

    def _delete(self, jobs: list[str]) -> None:
        """Delete the pixels of ended jobs, each of which is told once."""
        faults = []
        for job in jobs:
            try:
                self._store.delete_job(job)
            except (QueueUnavailableError, ValueError) as error:
                faults.append(str(error))
        if faults:
            logger.warning("pixels of %d ended jobs were not deleted, and will expire: %s", len(faults), faults[-1])

    def _touch(self, now: float) -> None:
        """Keep the pixels of held jobs alive; in Redis the renewal of their leases does that."""
        for held in self._held():
            if now - held.touched_at < self._settings.blob_ttl_s / 4:
                continue
            held.touched_at = now
            for ref in held.request.images:
                if isinstance(ref, BlobImage) and ref.key.startswith("blob:"):
                    self._touch_one(ref.key)

    def _touch_one(self, key: str) -> None:
        try:
            self._store.touch(key, self._settings.blob_ttl_s)
        except (ServiceError, ValueError) as error:
            logger.warning("pixels of %s were not kept alive: %s", key, error)
