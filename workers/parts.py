"""One job's share of a commit, and handing a job back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

from redis import Redis

from visionpipe.errors import ServiceError
from visionpipe.queue import Call, calls, run
from visionpipe.schemas.jobs import ErrorInfo, JobState
from workers.persist import persist
from workers.work import HeldJob

logger = logging.getLogger("visionpipe.committer")

HAND_BACK_TRY_S = 3
"""How long an ending worker tries to hand a job back."""
_REASONS = {
    JobState.CANCELLED: ErrorInfo(code="cancelled", message="The job was cancelled while it ran."),
    JobState.EXPIRED: ErrorInfo(
        code="deadline_exceeded", message="The deadline passed before every image had an outcome."
    ),
}


class Part(NamedTuple):
    """One job's share of a commit."""

    job: HeldJob
    outcomes: list[tuple[int, bool, bytes]]
    last: bool
    final: JobState | None
    """In what the job ends with this commit, if it was stopped."""

    @classmethod
    def of(cls, job: HeldJob) -> Part:
        """Take what a job has by now."""
        outcomes, last = job.take_outcomes()
        return cls(job, outcomes, last, job.stopped if last else None)

    def call(self) -> Call[bool]:
        """The commit, as a call."""
        error = self.job.error or _REASONS[self.final] if self.final is not None else None
        return calls.commit(self.job.claim.job, self.job.claim.token, self.outcomes, final=self.final, error=error)


def hand_back(redis: Redis, job: HeldJob, outcomes: Sequence[tuple[int, bool, bytes]] = ()) -> None:
    """Give an unfinished job back to the queue, with what is done of it; without Redis its lease runs out instead."""
    try:
        if outcomes:
            persist(
                lambda: run(redis, calls.commit(job.claim.job, job.claim.token, outcomes)), give_up_s=HAND_BACK_TRY_S
            )
        release = calls.release(job.claim.job, job.claim.token, let_go=job.let_go)
        persist(lambda: run(redis, release), give_up_s=HAND_BACK_TRY_S)
    except ServiceError as error:
        logger.warning("job %s was not handed back; its lease will run out: %s", job.claim.job, error)
