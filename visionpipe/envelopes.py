"""What a job ended with: from the items as workers wrote them to typed results, one outcome for each image."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import ValidationError

from visionpipe.errors import CancelledError, DeadlineExceededError, InternalError, VisionPipeError
from visionpipe.schemas.jobs import Envelope, Item, JobState
from visionpipe.schemas.results import Result
from visionpipe.tasks import parse_item
from visionpipe.wire import error_from, error_info

if TYPE_CHECKING:
    from visionpipe.queue import RawEnvelope

ResultT = TypeVar("ResultT", bound=Result)


def parse(raw: RawEnvelope) -> Envelope[ResultT]:
    """Make typed results of what workers wrote.

    Raises:
        InternalError: A worker of another version wrote what this one cannot read.
    """
    record = raw.record
    try:
        items = [cast("Item[ResultT]", parse_item(record.task, text)) for text in raw.items]
    except ValidationError as error:
        raise InternalError(
            f"Job {record.job} has a result that this version cannot read; run the same version on client and worker."
        ) from error
    # All parts have just been validated; doing it once more would double the time.
    return Envelope.model_construct(
        job=record.job,
        state=record.state,
        items=items,
        total=record.total,
        model=raw.model,
        error=record.error,
        attempts=record.attempts,
    )


def unwrap(envelope: Envelope[ResultT]) -> list[ResultT]:
    """Take the results out of an ended job's envelope.

    Raises:
        VisionPipeError: Why the first image without a result has none; ``details`` name job and index.
    """
    results: list[ResultT] = []
    for item in outcomes(envelope):
        if item.result is None:
            error = InternalError("item without result and error") if item.error is None else error_from(item.error)
            error.details.update(job=envelope.job, index=item.index)
            raise error
        results.append(item.result)
    return results


def outcomes(envelope: Envelope[ResultT]) -> list[Item[ResultT]]:
    """Give one item per image of an ended job: its own outcome, or why the job ended before it had one."""
    found = {item.index: item for item in envelope.items}
    reason = envelope.error or error_info(_why(envelope))
    return [found.get(index) or Item(index=index, error=reason) for index in range(envelope.total)]


def _why(envelope: Envelope[ResultT]) -> VisionPipeError:
    if envelope.state is JobState.CANCELLED:
        return CancelledError(f"Job {envelope.job} was cancelled.")
    if envelope.state is JobState.EXPIRED:
        return DeadlineExceededError(f"The deadline of job {envelope.job} passed.")
    return InternalError(f"Job {envelope.job} is {envelope.state} without an outcome for every image.")
