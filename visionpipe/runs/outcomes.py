"""From the envelope of a chunk's job to one outcome per input."""

from __future__ import annotations

from collections.abc import Iterator

from visionpipe import jobs
from visionpipe.errors import ArtifactExpiredError, CancelledError, ImageChangedError
from visionpipe.runs.rows import Outcome
from visionpipe.schemas.jobs import Envelope, Item, JobState
from visionpipe.schemas.results import Result


def outcomes(envelope: Envelope[Result], *, interrupted: bool = False) -> Iterator[Outcome]:
    """Give every image of the job its outcome.

    Args:
        envelope: What the job ended with.
        interrupted: We cancelled it ourselves, so images without an outcome are left for the next sitting.
    """
    ours = interrupted and envelope.state is JobState.CANCELLED
    for item in envelope.items if ours else jobs.outcomes(envelope):
        if not (ours and item.error and item.error.code == CancelledError.code):
            yield _outcome(item)


def _outcome(item: Item[Result]) -> Outcome:
    answer = item.model_dump_json(exclude={"index", "name"}, exclude_none=True)
    if item.error is None:
        return Outcome(item.index, answer)
    # A file that changed between submission and reading is referenced anew at the next try; an artifact that expired
    # before it was saved is made anew.
    retryable = item.error.retryable or item.error.code in (ImageChangedError.code, ArtifactExpiredError.code)
    return Outcome(item.index, answer, item.error.code, item.error.message, retryable)
