"""The names of everything in Redis. Lua builds the same names; the two are kept together by the tests."""

from __future__ import annotations

from visionpipe.schemas.jobs import Lane

PREFIX = "vp:"
GC = "vp:gc"
"""List of ended jobs whose pixels lie outside Redis."""


def lane_list(target: str, lane: Lane) -> str:
    """The Celery queue of one model and lane."""
    return f"vp:{target}:{lane}"


def job(job_id: str) -> str:
    """Hash: the job's record."""
    return f"vp:job:{job_id}"


def items(job_id: str) -> str:
    """Hash: index → item, as JSON."""
    return f"vp:items:{job_id}"


def reply(client: str) -> str:
    """Stream on which a client hears that one of its jobs has moved."""
    return f"vp:reply:{client}"


def control(worker: str) -> str:
    """List of jobs that a worker should stop."""
    return f"vp:ctl:{worker}"


def staged(stage: str, index: int) -> str:
    """Where a submission's pixels lie until its job is created."""
    return f"vp:stage:{stage}:{index}"


def stored(key: str) -> str:
    """The Redis key of a blob, upload or artifact."""
    return PREFIX + key
