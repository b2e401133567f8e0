"""From the envelope of a chunk's job to one outcome per input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from visionpipe import envelopes
from visionpipe.errors import ArtifactExpiredError, CancelledError, ImageChangedError
from visionpipe.queue import RawEnvelope
from visionpipe.runs.rows import Outcome
from visionpipe.schemas.jobs import Envelope, Item, JobState
from visionpipe.schemas.results import Result

_HEAD = b'{"index":'
_PLAIN = {"index", "result", "timings"}


def outcomes(envelope: Envelope[Result], *, interrupted: bool = False) -> Iterator[Outcome]:
    """Give every image of the job its outcome.

    Args:
        envelope: What the job ended with.
        interrupted: We may have cancelled it ourselves, so images without an outcome, or with the best that was there
            by then, are left for the next sitting.
    """
    ours = interrupted and envelope.state is JobState.CANCELLED
    for item in envelope.items if ours else envelopes.outcomes(envelope):
        if not (interrupted and was_cancelled(item)):
            yield _outcome(item)


def was_cancelled(item: Item[Result]) -> bool:
    """Whether an image has no outcome, or only the best that was there, because its job was cancelled."""
    if item.error is not None:
        return item.error.code == CancelledError.code
    # Whoever gave it a budget of time wanted no more than fits into that.
    return item.result is not None and item.result.partial and getattr(item.result, "stopped", None) != "time_budget"


def raw_outcomes(raw: RawEnvelope, *, interrupted: bool = False) -> Iterator[Outcome]:
    """As ``outcomes``, from items as the worker wrote them: results that nobody looks at need no objects.

    Args:
        raw: What the job ended with.
        interrupted: See ``outcomes``.
    """
    done: set[int] = set()
    rest: list[bytes] = []
    for text in raw.items:
        told = _told(text)
        # Whatever looks odd is read with all its checks.
        if told is None or (interrupted and told["result"].get("partial")):
            rest.append(text)
        elif 0 <= told["index"] < raw.record.total and text.startswith(_HEAD):
            done.add(told["index"])
            # All but the index, which says nothing outside its chunk.
            yield Outcome(told["index"], "{" + text[text.index(b",") + 1 :].decode())
        else:
            rest.append(text)
    if len(done) < raw.record.total:
        envelope: Envelope[Result] = envelopes.parse(raw._replace(items=rest))
        yield from (found for found in outcomes(envelope, interrupted=interrupted) if found.position not in done)


def _told(text: bytes) -> dict[str, Any] | None:
    """Read an item that is plainly an index, a result and how long it took."""
    try:
        told = from_json(text)
    except ValueError:
        return None
    if not isinstance(told, dict) or not told.keys() <= _PLAIN or type(told.get("index")) is not int:
        return None
    return told if isinstance(told.get("result"), dict) else None


def _outcome(item: Item[Result]) -> Outcome:
    answer = item.model_dump_json(exclude={"index", "name"}, exclude_none=True)
    if item.error is None:
        return Outcome(item.index, answer)
    # A file that changed between submission and reading is referenced anew at the next try; an artifact that expired
    # before it was saved is made anew.
    retryable = item.error.retryable or item.error.code in (ImageChangedError.code, ArtifactExpiredError.code)
    return Outcome(item.index, answer, item.error.code, item.error.message, retryable)
