"""The way of a job through a worker: claim, read and decode, micro-batch, commit."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from redis import Redis

from models.images import Decoded, decode
from visionpipe.errors import QueueUnavailableError, UnsupportedTaskError, VisionPipeError
from visionpipe.fetch import Fetcher
from visionpipe.queue import Claim, calls, run
from visionpipe.schemas.images import ImageRef
from visionpipe.schemas.jobs import JobState, Lane, Progress
from visionpipe.schemas.requests import Request
from visionpipe.settings import Settings
from visionpipe.tasks import parse_request
from workers.batching import Batcher, Hooks
from workers.committer import Committer
from workers.device import default_decode_threads
from workers.hosted import HostedModel
from workers.metrics import Metrics
from workers.outcome import describe
from workers.runtime import Outcome, Runtime
from workers.window import Window
from workers.work import HeldJob, Work

logger = logging.getLogger("visionpipe.engine")


@dataclass
class Parts:
    """What an engine is made of."""

    hosted: HostedModel
    runtimes: dict[str, Runtime]
    fetcher: Fetcher
    window: Window
    metrics: Metrics


class Engine:
    """Everything between a ticket and a commit; safe in threads.

    Args:
        redis: For claims, marks and releases.
        commit_redis: For the committer.
        worker: This worker's id.
        parts: The model and what surrounds it.
        settings: Limits and thread counts.
        max_batch: Largest micro-batch, in images.
    """

    def __init__(
        self, redis: Redis, commit_redis: Redis, worker: str, parts: Parts, settings: Settings, *, max_batch: int
    ) -> None:
        self._redis = redis
        self._worker = worker
        self._parts = parts
        self._settings = settings
        self._held: dict[str, HeldJob] = {}
        self._lock = threading.Lock()
        threads = default_decode_threads(settings.decode_threads)
        self._readers = {lane: ThreadPoolExecutor(threads, f"decode-{lane}") for lane in Lane}
        hooks = Hooks(
            finished=self._finished,
            dropped=lambda work: self.committer.put([work], [None]),
            progressed=self._progressed,
            suspect=self._read_suspect,
        )
        self.batcher = Batcher(parts.runtimes, hooks, max_batch)
        self.committer = Committer(commit_redis, parts.metrics, settled=self._settled, ended=self._ended)

    def accept(self, job_id: str) -> None:
        """Claim the job a ticket names, if it still waits, and set its images on their way."""
        token = uuid.uuid4().hex
        try:
            claim = run(self._redis, calls.claim(job_id, self._worker, token, self._parts.hosted.info, self._settings))
        except QueueUnavailableError as error:
            logger.warning("ticket of %s dropped, the sweep will write another: %s", job_id, error)
            return
        if claim is None:
            return
        try:
            request = parse_request(claim.request)
            self._check(request)
        except VisionPipeError as error:
            run(self._redis, calls.commit(job_id, token, [], final=JobState.FAILED, error=describe(error)))
            return
        self._begin(claim, request)

    def held(self) -> list[HeldJob]:
        """The jobs this worker holds."""
        with self._lock:
            return list(self._held.values())

    def drain(self, timeout_s: float) -> None:
        """Finish what is held, or hand it back when the time is up; nothing is lost either way."""
        deadline = time.monotonic() + timeout_s
        while self.held() and time.monotonic() < deadline and self.batcher.alive:
            time.sleep(0.02)
        left = self.held()
        for job in left:
            job.lost = True
        self.batcher.close(timeout_s=5)
        for job in left:
            outcomes, _ = job.take_outcomes()
            if outcomes:
                run(self._redis, calls.commit(job.claim.job, job.claim.token, outcomes))
            run(self._redis, calls.release(job.claim.job, job.claim.token))
        self.committer.close(timeout_s=5)
        for reader in self._readers.values():
            reader.shutdown(wait=False, cancel_futures=True)
        logger.info("drained; %d jobs handed back", len(left))

    def _check(self, request: Request) -> None:
        if request.task not in self._parts.runtimes:
            able = ", ".join(self._parts.runtimes)
            name = self._parts.hosted.card.name
            raise UnsupportedTaskError(f"Expected a task that {name!r} can do ({able}), got {request.task!r}.")

    def _begin(self, claim: Claim, request: Request) -> None:
        refs: list[ImageRef | None] = list(request.images) or [None]
        open_indices = [index for index in range(len(refs)) if index not in claim.finished]
        job = HeldJob(claim, request, open_items=len(open_indices))
        with self._lock:
            self._held[claim.job] = job
        self._parts.window.add(claim.lane, len(open_indices))
        if job.suspect:
            logger.warning("job %s lost %d workers; its images run one by one", claim.job, claim.attempts)
        for index in open_indices:
            work = Work(job, index, refs[index], self._read)
            if job.suspect:
                self.batcher.put_suspect(work)
            else:
                self._readers[claim.lane].submit(self._read_into_batch, work)

    def _read(self, ref: ImageRef) -> Decoded:
        return self._decode(self._parts.fetcher.fetch(ref))

    def _decode(self, data: bytes) -> Decoded:
        limits = self._settings
        return decode(data, max_bytes=limits.max_image_bytes, max_pixels=limits.max_image_pixels)

    def _prepare(self, work: Work) -> bool:
        """Fetch, decode and preprocess; an exception is the image's outcome."""
        try:
            if work.ref is not None:
                started = time.monotonic()
                data = self._parts.fetcher.fetch(work.ref)
                fetched = time.monotonic()
                work.image = self._decode(data)
                work.size_wh = work.image.size_wh
                work.times_ms["fetch_ms"] = (fetched - started) * 1000
                work.times_ms["decode_ms"] = (time.monotonic() - fetched) * 1000
            started = time.monotonic()
            self._parts.runtimes[work.request.task].prepare(work)
            work.times_ms["preprocess_ms"] = (time.monotonic() - started) * 1000
            # A runtime that needs the pixels later keeps them in `prepared`; photographs are large.
            work.image = None
        except Exception as error:  # noqa: BLE001 - the outcome of this image alone
            self.committer.put([work], [error])
            return False
        return True

    def _read_into_batch(self, work: Work) -> None:
        if work.job.dropped:
            self.committer.put([work], [None])
        elif self._prepare(work):
            self.batcher.put(work)

    def _read_suspect(self, work: Work) -> bool:
        try:
            marked = run(self._redis, calls.mark(work.job.claim.job, work.job.claim.token, work.index))
        except QueueUnavailableError as error:
            logger.warning("a suspect of job %s was not marked: %s", work.job.claim.job, error)
            marked = False
        if not marked:
            work.job.lost = True
            self.committer.put([work], [None])
            return False
        return self._prepare(work)

    def _finished(self, batch: list[Work], outcomes: list[Outcome]) -> None:
        self._parts.metrics.count_batch(len(batch))
        self.committer.put(batch, outcomes)

    def _progressed(self, work: Work, told: Progress) -> None:
        try:
            run(self._redis, calls.progress(work.job.claim.job, work.job.claim.token, told))
        except QueueUnavailableError as error:
            logger.warning("progress of job %s not recorded: %s", work.job.claim.job, error)

    def _settled(self, work: Work, has_outcome: bool) -> None:
        self._parts.window.remove(work.job.lane, 1, done=has_outcome)

    def _ended(self, job: HeldJob) -> None:
        with self._lock:
            self._held.pop(job.claim.job, None)
