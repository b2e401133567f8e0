"""What the scripts' answers become."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from pydantic import Field

from visionpipe.errors import InternalError
from visionpipe.schemas.base import Schema
from visionpipe.schemas.jobs import ErrorInfo, JobRecord, JobState, Lane, ModelInfo, Progress, WorkerRecord

logger = logging.getLogger("visionpipe.queue")
SchemaT = TypeVar("SchemaT", bound=Schema)

FIELDS = (
    *("task", "model", "lane", "state", "total", "finished", "attempts", "submitted_at", "started_at", "ended_at"),
    *("deadline_at", "worker", "cancel", "progress", "error", "model_info"),
)
"""What a job's record is read for."""


class Submitted(NamedTuple):
    """What became of a submission."""

    created: bool
    """False when the job was there already."""
    state: JobState
    """Where it is."""


class Claim(NamedTuple):
    """A job that this worker now holds."""

    job: str
    token: str
    request: bytes
    """The request, as JSON."""
    lane: Lane
    attempts: int
    """Workers lost while they held it; above 0 its images run one by one."""
    waited_ms: float
    """From submission to this claim."""
    left_ms: float | None
    """Until the deadline; none without one."""
    finished: frozenset[int]
    """Items that have an outcome from an earlier attempt."""
    pixels: bytes = b""
    """The job's only blob, where it is of ordinary size."""
    num_open: int = 0
    """Items without an outcome."""
    num_let_go: int = 0
    """How often it was handed back because the store could not be used."""


class RawEnvelope(NamedTuple):
    """A job's record and items, not yet parsed."""

    record: JobRecord
    model: ModelInfo | None
    items: list[bytes]
    """JSON of each item that has an outcome, by index."""


class Swept(NamedTuple):
    """What a sweep mended."""

    lapsed: int
    """Jobs whose lease had run out."""
    expired: int
    """Jobs whose deadline had passed."""
    reticketed: int
    """Lost tickets written again."""
    broken: int = 0
    """Records and lists that are none of ours, set aside."""


class QueueStatus(Schema):
    """One lane of one model."""

    target: str
    """``name`` or ``name@digest``."""
    lane: Lane
    """Which lane."""
    queued_jobs: int = Field(ge=0)
    """Jobs waiting."""
    queued_items: int
    """Images waiting."""
    running_items: int
    """Images claimed and without an outcome."""
    oldest_wait_s: float | None = None
    """How long the oldest waiting job has waited."""


class Accounts(Schema):
    """Every item ever submitted to a model, by how it ended."""

    submitted: int = 0
    """Items accepted into the queue."""
    done: int = 0
    """Items with a result."""
    failed: int = 0
    """Items with an error."""
    cancelled: int = 0
    """Items without an outcome when their job was cancelled."""
    expired: int = 0
    """Items without an outcome when their job expired."""

    @property
    def open(self) -> int:
        """Items still queued or running."""
        return self.submitted - self.done - self.failed - self.cancelled - self.expired


def pairs(flat: list[bytes]) -> dict[str, bytes]:
    """Read Redis' flat field-value list."""
    return {flat[i].decode(errors="replace"): flat[i + 1] for i in range(0, len(flat), 2)}


def _fields(values: list[bytes | None]) -> dict[str, bytes]:
    return {name: value for name, value in zip(FIELDS, values, strict=True) if value is not None}


def job_record(job: str, values: list[bytes | None]) -> JobRecord | None:
    """Read a job's ``FIELDS``; without a state there is no such job.

    Raises:
        InternalError: The record is damaged; waiting does not mend it.
    """
    field = _fields(values)
    if "state" not in field:
        return None
    with _whole(job):
        return _job_record(job, field)


@contextmanager
def _whole(job: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, LookupError, RecursionError) as error:
        raise InternalError(
            f"Expected a whole record of job {job!r}, got one that somebody else wrote or damaged: {error!r:.200}."
        ) from error


def _job_record(job: str, field: dict[str, bytes]) -> JobRecord:

    def seconds(name: str) -> float | None:
        return float(field[name]) / 1000 if name in field else None

    return JobRecord(
        job=job,
        task=field["task"].decode(),
        model=field["model"].decode(),
        lane=Lane(field["lane"].decode()),
        state=JobState(field["state"].decode()),
        total=int(field["total"]),
        finished=int(field["finished"]),
        attempts=int(field["attempts"]),
        submitted_at=float(field["submitted_at"]) / 1000,
        started_at=seconds("started_at"),
        ended_at=seconds("ended_at"),
        deadline_at=seconds("deadline_at"),
        worker=field["worker"].decode() if "worker" in field else None,
        cancel_requested=field.get("cancel") == b"1",
        progress=_known(Progress, field["progress"]) if "progress" in field else None,
        error=_known(ErrorInfo, field["error"]) if "error" in field else None,
    )


def raw_envelope(job: str, answer: list[Any]) -> RawEnvelope | None:
    """Read the answer of ``envelope.lua``; raises as ``job_record``."""
    record = job_record(job, answer[0])
    if record is None:
        return None
    told = _fields(answer[0]).get("model_info")
    with _whole(job):
        items = pairs(answer[1])
        model = _known(ModelInfo, told) if told else None
        return RawEnvelope(record, model, [items[index] for index in sorted(items, key=int)])


def told_envelope(job: str, told: Mapping[bytes, bytes]) -> RawEnvelope | None:
    """Read what came with the news that a job ended; none when its record must be asked for."""
    values = [told.get(name.encode()) for name in FIELDS]
    if None in (told.get(b"state"), told.get(b"total")):
        return None
    item = told.get(b"item")
    try:
        return raw_envelope(job, [values, [] if item is None else [b"0", item]])
    except InternalError:
        return None


def _known(schema: type[SchemaT], text: bytes | str) -> SchemaT:
    """Read what another version may have written: fields that this one does not know are left out."""
    told = json.loads(text)
    if not isinstance(told, dict):
        raise ValueError(f"expected an object, got {type(told).__name__}")  # noqa: TRY004 - the text is at fault
    return schema.model_validate_json(json.dumps({name: told[name] for name in schema.model_fields if name in told}))


def _worker_record(told: dict[str, Any]) -> WorkerRecord:
    lanes = [lane for lane in told.get("lanes", ()) if lane in set(Lane)]
    return _known(WorkerRecord, json.dumps({**told, "lanes": lanes}))


def worker_records(answer: list[bytes]) -> list[WorkerRecord]:
    """Read the answer of ``workers.lua``; the beat is written by Redis' clock."""
    found = []
    for i in range(0, len(answer), 2):
        try:
            told: dict[str, Any] = json.loads(answer[i])
            beat_at = float(answer[i + 1]) / 1000
            found.append(_worker_record({**told, "beat_at": beat_at}))
        except (ValueError, TypeError) as error:
            # One that a stranger wrote must not hide the others.
            logger.warning("an announcement that cannot be read was passed over: %.200s", error)
    return sorted(found, key=lambda record: (record.model, record.worker))


def news(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Read what ``XREAD`` gave of one stream: ids and fields."""
    # redis-py parses entries into dicts in some versions and leaves flat lists in others.
    found = []
    streams = answer.items() if isinstance(answer, dict) else answer or ()
    for _, entries in streams:
        for entry, fields in entries:
            if not isinstance(fields, dict):
                fields = dict(zip(fields[::2], fields[1::2], strict=True))
            found.append((entry, fields))
    return found
