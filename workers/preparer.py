"""The way of images to the device: fetched, decoded, preprocessed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from redis import Redis

from visionpipe.errors import QueueUnavailableError, ServiceError
from visionpipe.media import Folders
from visionpipe.queue import calls
from workers.batching import Batcher
from workers.committer import Committer
from workers.persist import run_all
from workers.reading import Reader
from workers.runtime import Runtime
from workers.work import Work

logger = logging.getLogger("visionpipe.preparer")


class Preparer:
    """Makes images ready for the device; what goes wrong with one is its outcome. Safe in threads.

    Args:
        redis: For marks of suspects.
        reader: Fetches and decodes.
        runtimes: Task name → runtime.
        batcher: Takes what is ready.
        committer: Takes the outcomes of the others.
    """

    def __init__(
        self, redis: Redis, reader: Reader, runtimes: Mapping[str, Runtime], batcher: Batcher, committer: Committer
    ) -> None:
        self._redis = redis
        self._reader = reader
        self._runtimes = runtimes
        self._batcher = batcher
        self._committer = committer

    def prepare(self, works: Sequence[Work]) -> None:
        """Prepare images of one lane, and hand them to the device."""
        expected = sum(work.is_quick for work in works)
        with Folders() as folders:
            for work in works:
                if not work.job.dropped:
                    work.step_aside()
                if work.job.dropped:
                    self._committer.put([work], [None])
                elif self._prepare(work, folders):
                    if work.is_long and work.is_quick:
                        # Only its pixels told that it takes long.
                        work.is_quick = False
                        work.way.leave(work.job.lane)
                    self._batcher.put(work)
        self._batcher.expect(works[0].job.lane, -expected)

    def fetch_suspect(self, work: Work) -> None:
        """Fetch an image that is tried alone, and hand it to the device, which must not wait for that."""
        try:
            if work.job.dropped:
                self._committer.put([work], [None])
                return
            if work.ref is not None:
                work.encoded = self._reader.fetch(work, work.ref)
        except QueueUnavailableError as error:
            self._committer.let_go(work, error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the outcome of this image alone
            self._committer.put([work], [error])
        else:
            self._batcher.put_suspect(work)

    def prepare_suspect(self, work: Work) -> bool:
        """Mark a fetched image in Redis as the one that is tried now, and prepare it; false when that was its end.

        For the device thread: whatever else it computed meanwhile would be taken for the fault of this image.
        """
        if self._mark(work):
            return self._prepare(work)
        self._committer.put([work], [None])
        return False

    def _mark(self, work: Work) -> bool:
        mark = calls.mark(work.job.claim.job, work.job.claim.token, work.index)
        try:
            # Not patient: it takes the device thread's time.
            (marked,) = run_all(self._redis, [mark], patient=False)
        except ServiceError as error:
            logger.warning("a suspect of job %s was not marked: %s", work.job.claim.job, error)
            marked = None
        # Where Redis does not answer, whoever claims the job next tries again.
        work.job.lost = work.job.lost or marked is False
        work.job.handing_back = work.job.handing_back or marked is None
        return bool(marked)

    def _prepare(self, work: Work, folders: Folders | None = None) -> bool:
        try:
            runtime = self._runtimes[work.request.task]
            if work.ref is not None:
                self._reader.fill(work, work.ref, runtime.enough_px(), folders, runtime.decoder)
            started = time.monotonic()
            runtime.prepare(work)
            work.ready_at = time.monotonic()
            work.times_ms["preprocess_ms"] = (work.ready_at - started) * 1000
            # A runtime that needs the pixels later keeps them in `prepared`; photographs are large.
            work.image = None
            if work.is_long and (told := runtime.estimate(work)) is not None:
                self._committer.tell(work.job, told)
        except QueueUnavailableError as error:
            self._committer.let_go(work, error)
            return False
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the outcome of this image alone
            self._committer.put([work], [error])
            return False
        return True
