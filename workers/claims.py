"""What a claimed job asks for, and whether this worker can do it."""

from __future__ import annotations

from collections.abc import Collection

from visionpipe.errors import InvalidRequestError, UnsupportedTaskError
from visionpipe.queue import Claim
from visionpipe.schemas.requests import Request
from visionpipe.tasks import parse_request


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
