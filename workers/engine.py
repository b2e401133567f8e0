"""The way of a job through a worker: claim, read and decode, micro-batch, commit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis

from visionpipe.errors import QueueUnavailableError
from visionpipe.fetch import Fetcher
from visionpipe.queue import Claim
from visionpipe.schemas.images import ImageRef
from visionpipe.schemas.jobs import Lane, Progress
from visionpipe.schemas.results import Result
from visionpipe.settings import Settings
from visionpipe.store import Store
from workers.artifacts import Artifacts
from workers.batching import Batcher
from workers.claims import claim_all, refuse, request_of
from workers.committer import Committer
from workers.device import default_decode_threads, finish_threads, is_fatal
from workers.gate import Gate
from workers.hooks import Hooks
from workers.hosted import HostedModel
from workers.lanes import LaneThreads, each
from workers.longwork import MAX_ACTIVE
from workers.metrics import Metrics
from workers.parts import hand_back
from workers.preparer import Preparer
from workers.reading import Reader
from workers.runtime import Answer, Outcome, Runtime, Written
from workers.window import Window
from workers.work import HeldJob, Work
from workers.yielding import RightOfWay

logger = logging.getLogger("visionpipe.engine")

MAX_LONG = 2 * MAX_ACTIVE
"""Bulk images that take long, and are being prepared, computed or finished; more would only be in the others' way."""
HAND_BACK_S = 5
"""How long a device step may still take once a worker hands back what it holds."""


@dataclass
class Parts:
    """What an engine is made of."""

    hosted: HostedModel
    runtimes: dict[str, Runtime]
    store: Store
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
        # By their jobs: one that was claimed again, after its lease had run out, is held twice for a moment.
        self._latest: dict[str, HeldJob] = {}
        self._lock = threading.Lock()
        self._reader = Reader(parts.fetcher, settings)
        self._artifacts = Artifacts(parts.store, settings)
        self._way = RightOfWay()
        self.committer = Committer(commit_redis, parts.metrics, settled=self._settled, ended=self._ended)
        hooks = Hooks(
            finished=self._finished,
            dropped=lambda work: self.committer.put([work], [None]),
            progressed=self._progressed,
            suspect=lambda work: self._preparer.prepare_suspect(work),
        )
        self.batcher = Batcher(parts.runtimes, hooks, max_batch)
        self._preparer = Preparer(redis, self._reader, parts.runtimes, self.batcher, self.committer)
        threads = default_decode_threads(settings.decode_threads)
        self._readers = LaneThreads("decode", self._preparer.prepare, threads, need=self.batcher.wait_until_hungry)
        self._finishers = LaneThreads("finish", each(self._finish), finish_threads())
        self._suspect_readers = LaneThreads("suspect", each(self._preparer.fetch_suspect), 1)
        self._suspects = Gate(lambda work: self._suspect_readers.put(work.job.lane, [work]))
        self._long = Gate(lambda work: self._readers.put(work.job.lane, [work]), MAX_LONG)

    def accept(self, job: str) -> None:
        """Claim a job, if it still waits, and set its images on their way."""
        for claim in self.claim([job]):
            self.read_soon(self.begin(claim))

    def claim(self, jobs: Sequence[str]) -> list[Claim]:
        """Claim those jobs that still wait, in one round trip."""
        return claim_all(self._redis, jobs, self._worker, self._parts.hosted.info, self._settings)

    def held(self) -> list[HeldJob]:
        """The jobs this worker holds."""
        with self._lock:
            return list(self._held.values())

    def drain(self, timeout_s: float, hurry: threading.Event | None = None) -> None:
        """Finish what is held, or hand it back when the time is up; nothing is lost either way.

        Args:
            timeout_s: How long to finish what is held.
            hurry: Hand everything back as soon as this is set.
        """
        self._wait_until_empty(timeout_s, hurry)
        left = self.held()
        for job in left:
            job.handing_back = True
        # What has not begun now passes through as dropped, and the committer hands each job back with its last image.
        self._wait_until_empty(HAND_BACK_S)
        stuck = [(job, job.take_outcomes()[0]) for job in self.held()]
        for job, _ in stuck:
            job.lost = True
        self.batcher.close(timeout_s=1)
        self.committer.close(timeout_s=HAND_BACK_S)
        for job, outcomes in stuck:
            hand_back(self._redis, job, outcomes)
        for threads in (self._readers, self._suspect_readers, self._finishers):
            threads.close()
        logger.info("drained; %d jobs handed back", len(left))

    def _wait_until_empty(self, timeout_s: float, hurry: threading.Event | None = None) -> None:
        deadline = time.monotonic() + timeout_s
        while self.held() and time.monotonic() < deadline and not (hurry and hurry.is_set()):
            time.sleep(0.02)

    def begin(self, claim: Claim) -> list[Work]:
        """Hold a job and set its images on their way.

        Returns:
            A single interactive picture that came with its claim, not yet on its way: ``read_here`` saves it the way to
            another thread, ``read_soon`` does not.
        """
        try:
            request = request_of(claim, self._parts.hosted.card.name, self._parts.runtimes)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the other jobs go on
            refuse(self._redis, claim, error)
            return []
        refs: list[ImageRef | None] = list(request.images) or [None]
        open_indices = [index for index in range(len(refs)) if index not in claim.finished]
        # A worker that hoards long work keeps it from one that has nothing to do.
        is_long = self._parts.runtimes[request.task].takes_long(request)
        weight = self.batcher.limits.max_batch if is_long else 1
        job = HeldJob(claim, request, open_items=len(open_indices), weight=weight)
        read = self._reader.read
        # Bulk work stands aside for quick work alone: suspects and long work would keep it aside for minutes.
        quick = not job.suspect and not is_long
        works = [
            Work(job, index, refs[index], read, self._artifacts, self._way, is_long=is_long, is_quick=quick)
            for index in open_indices
        ]
        with self._lock:
            self._held[claim.token] = job
            if (older := self._latest.get(claim.job)) is not None:
                older.lost = True
            self._latest[claim.job] = job
        self._parts.window.add(claim.lane, len(works), weight)
        if job.suspect:
            logger.warning("job %s lost %d workers; its images run one by one", claim.job, claim.attempts)
            self._suspects.put(job, works)
            return []
        if is_long and claim.lane is Lane.BULK:
            self._long.put(job, works)
            return []
        if quick:
            self._way.enter(claim.lane, len(works))
            self.batcher.expect(claim.lane, len(works))
        alone = claim.lane is Lane.INTERACTIVE and len(works) == 1 and job.has_pixels
        if quick and alone:
            return works
        if claim.num_let_go:
            # The one that found no store may be among them, and those behind it in a slice would wait with it.
            for work in works:
                self._readers.put(claim.lane, [work])
        else:
            self._readers.put(claim.lane, works)
        return []

    def read_here(self, works: Sequence[Work]) -> None:
        """Read and prepare images of one lane in this thread, and hand them to the device."""
        self._preparer.prepare(works)

    def read_soon(self, works: Sequence[Work]) -> None:
        """Have images of one lane read and prepared by their threads."""
        if works:
            self._readers.put(works[0].job.lane, works)

    def _finished(self, batch: list[Work], answers: list[Answer]) -> None:
        self._parts.metrics.count_batch(len(batch))
        ended: list[tuple[Work, Outcome]] = []
        for work, answer in zip(batch, answers, strict=True):
            if isinstance(answer, (Result, Written, BaseException)):
                ended.append((work, answer))
            else:
                work.rest = answer
                self._finishers.put(work.job.lane, [work])
        if len(ended) == 1 and self._may_commit_here(ended[0][0]) and self.committer.commit_here(*ended[0]):
            return
        if ended:
            self.committer.put([work for work, _ in ended], [outcome for _, outcome in ended])

    def _may_commit_here(self, work: Work) -> bool:
        """Whether the device has nothing else to do than to see a single answer home."""
        return work.job.lane is Lane.INTERACTIVE and work.job.open_items == 1 and not self.batcher.has_work

    def _finish(self, work: Work) -> None:
        """Do what is left of an image's work once it no longer needs the device."""
        rest, work.rest = work.rest, None
        assert rest is not None
        work.step_aside()
        if work.job.abandoned:
            self.committer.put([work], [None])
            return
        started = time.monotonic()
        outcome: Outcome
        try:
            outcome = rest()
        except QueueUnavailableError as error:
            self.committer.let_go(work, error)
            return
        except (Exception, SystemExit) as error:
            if is_fatal(error):
                raise
            outcome = error
        spent_ms = (time.monotonic() - started) * 1000
        work.times_ms["postprocess_ms"] = work.times_ms.get("postprocess_ms", 0.0) + spent_ms
        self.committer.put([work], [outcome])

    def _progressed(self, work: Work, told: Progress) -> None:
        self.committer.tell(work.job, told)
        for gate in (self._suspects, self._long):
            gate.admit()

    def _settled(self, works: Sequence[Work], num_done: int) -> None:
        job = works[0].job
        for work in works:
            # Whoever still names the work of a quiet hour must not keep its pixels.
            work.prepared = None
        self._parts.window.remove(job.lane, len(works), job.weight, num_done=num_done)
        if not job.suspect:
            self._way.leave(job.lane, sum([work.is_quick for work in works]))
        for gate in (self._suspects, self._long):
            gate.settled(works)

    def _ended(self, job: HeldJob) -> None:
        with self._lock:
            self._held.pop(job.claim.token, None)
            if self._latest.get(job.claim.job) is job:
                del self._latest[job.claim.job]
