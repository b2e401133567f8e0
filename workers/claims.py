"""Claiming jobs: what each asks for, and whether this worker can do it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Sequence

from redis import Redis

from visionpipe.errors import InvalidRequestError, ServiceError, UnsupportedTaskError
from visionpipe.queue import Claim, calls, run
from visionpipe.schemas.jobs import JobState, ModelInfo
from visionpipe.schemas.requests import Request
from visionpipe.settings import Settings
from visionpipe.tasks import parse_request
from workers.outcome import describe
from workers.persist import persist, run_all

logger = logging.getLogger("visionpipe.claims")

CLAIM_TRY_S = 5
"""How long a claim is tried while Redis is away."""


def claim_all(redis: Redis, jobs: Sequence[str], worker: str, model: ModelInfo, settings: Settings) -> list[Claim]:
    """Claim those jobs that still wait, in one round trip; while Redis stays away, none.

    Args:
        redis: A blocking client.
        jobs: Their ids.
        worker: Who claims.
        model: What it hosts.
        settings: How long a lease is.
    """
    wanted = [calls.claim(job, worker, uuid.uuid4().hex, model, settings) for job in jobs]
    try:
        found = persist(lambda: run_all(redis, wanted), give_up_s=CLAIM_TRY_S) if wanted else []
    except ServiceError as error:
        logger.warning("tickets dropped, the sweep will see to their jobs (%s): %s", ", ".join(jobs), error)
        return []
    return [claim for claim in found if claim is not None]


def refuse(redis: Redis, claim: Claim, error: Exception) -> None:
    """End a claimed job that cannot be done; without Redis its lease runs out, and the next worker refuses it."""
    failed = calls.commit(claim.job, claim.token, [], final=JobState.FAILED, error=describe(error))
    try:
        persist(lambda: run(redis, failed), give_up_s=CLAIM_TRY_S)
    except ServiceError as away:
        logger.warning("job %s was not refused: %s", claim.job, away)


def request_of(claim: Claim, model: str, tasks: Collection[str]) -> Request:
    """Read the request of a job.

    Args:
        claim: The job.
        model: The hosted model's name, for the message.
        tasks: What it can be asked.

    Raises:
        InvalidRequestError: It is damaged, or none of ours.
        UnsupportedTaskError: The model cannot do what it asks.
    """
    request = parse_request(claim.request)
    if request.task not in tasks:
        raise UnsupportedTaskError(f"Expected a task that {model!r} can do ({', '.join(tasks)}), got {request.task!r}.")
    if claim.finished.issuperset(range(request.num_items)):
        raise InvalidRequestError("Expected as many images in the request as the job has items, got fewer.")
    return request
