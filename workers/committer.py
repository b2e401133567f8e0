"""Writes outcomes back to the queue, off the device thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from redis import Redis

from visionpipe.errors import QueueUnavailableError
from visionpipe.queue import Call, calls, run
from visionpipe.schemas.jobs import ErrorInfo, JobState
from workers.metrics import Metrics
from workers.outcome import item_json
from workers.runtime import Outcome
from workers.work import HeldJob, Work

logger = logging.getLogger("visionpipe.committer")

GIVE_UP_S = 120
"""How long a commit is tried while Redis is away; then the job's lease has long run out."""

_REASONS = {
    JobState.CANCELLED: ErrorInfo(code="cancelled", message="The job was cancelled while it ran."),
    JobState.EXPIRED: ErrorInfo(
        code="deadline_exceeded", message="The deadline passed before every image had an outcome."
    ),
}


class Committer:
    """One thread that turns outcomes into items and commits them.

    Args:
        redis: Its own connection pool.
        metrics: Where outcomes are counted.
        settled: Called for each image that has left the worker, with whether it has an outcome.
        ended: Called with a job when its last image has left.
    """

    def __init__(
        self, redis: Redis, metrics: Metrics, *, settled: Callable[[Work, bool], None], ended: Callable[[HeldJob], None]
    ) -> None:
        self._redis = redis
        self._metrics = metrics
        self._settled = settled
        self._ended = ended
        self._queue: queue.SimpleQueue[tuple[Sequence[Work], Sequence[Outcome | None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def put(self, batch: Sequence[Work], outcomes: Sequence[Outcome | None]) -> None:
        """Hand over images with their outcomes; ``None`` for one that was dropped."""
        self._queue.put((batch, outcomes))

    def close(self, timeout_s: float) -> None:
        """Commit what was handed over, then end."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            due: dict[HeldJob, None] = {}
            for work, outcome in zip(*entry, strict=True):
                written = None
                if outcome is not None and not work.job.lost:
                    written = item_json(work, outcome)
                    self._metrics.count(work, ok=written[1])
                if work.job.settle(written) or work.job.suspect:
                    due[work.job] = None
                self._settled(work, written is not None)
            for job in due:
                self._commit(job)

    def _commit(self, job: HeldJob) -> None:
        outcomes, last = job.take_outcomes()
        try:
            if not job.lost and (outcomes or last):
                final = job.stopped if last else None
                error = _REASONS[final] if final else None
                held = self._send(calls.commit(job.claim.job, job.claim.token, outcomes, final=final, error=error))
                if not held:
                    logger.warning(
                        "job %s is no longer held here; %d outcomes thrown away", job.claim.job, len(outcomes)
                    )
                    job.lost = True
        finally:
            if last:
                self._ended(job)

    def _send(self, call: Call[bool]) -> bool:
        give_up, pause = time.monotonic() + GIVE_UP_S, 0.1
        while True:
            try:
                return run(self._redis, call)
            except QueueUnavailableError as error:
                if time.monotonic() > give_up:
                    logger.error("gave up committing: %s", error)
                    return False
                time.sleep(pause)
                pause = min(pause * 2, 2.0)
