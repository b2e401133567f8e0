"""Every operation of the queue. Each is a ``Call``; perform it with ``run`` or ``arun``."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from visionpipe.errors import (
    InvalidRequestError,
    JobConflictError,
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
)
from visionpipe.queue import keys
from visionpipe.queue.call import Call
from visionpipe.queue.records import Claim, Submitted, Swept
from visionpipe.queue.scripts import script
from visionpipe.queue.tickets import ticket_template
from visionpipe.queue.views import accounts, envelope, queues, read, read_items, workers
from visionpipe.schemas.base import ID_PATTERN
from visionpipe.schemas.jobs import ErrorInfo, JobState, Lane, ModelInfo, Progress, WorkerRecord
from visionpipe.schemas.requests import Request
from visionpipe.settings import Settings

__all__ = [
    "accounts",
    "announce",
    "cancel",
    "claim",
    "commit",
    "envelope",
    "expire_worker",
    "gc",
    "mark",
    "progress",
    "queues",
    "read",
    "read_items",
    "release",
    "renew",
    "retire",
    "submit",
    "sweep",
    "touch",
    "workers",
]

logger = logging.getLogger("visionpipe.queue")

RESERVED_IDS = {str(lane) for lane in Lane}
"""As an id or a model's name these would make two different keys of one name, such as ``vp:job:bulk``."""
GRACE_S = 10
"""How long a worker may take to hand over a cancelled or expired job before the sweep ends it."""
SWEEP_LIMIT = 200
MAX_DIGITS = 6
"""Of an item's index; Python refuses to read numbers of thousands."""


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def submit(
    request: Request,
    *,
    job: str,
    lane: Lane,
    client: str,
    settings: Settings,
    payloads: Mapping[str, bytes] | None = None,
    external_store: bool = False,
    wait_for_worker: bool = False,
) -> Call[Submitted]:
    """Accept a job: its pixels, its record and its ticket, in one round trip.

    The same id with the same request is the same job.

    Args:
        request: What is asked.
        job: The job's id.
        lane: With which urgency.
        client: Whose reply stream hears of it.
        settings: Bounds and lifetimes.
        payloads: Store key (``blob:<job>:<i>``, i counted from 0 without gaps) → encoded image.
        external_store: Whether the job's pixels lie outside Redis.
        wait_for_worker: Accept the job though no worker serves the model now.

    Raises:
        NoWorkerError: No live worker serves the model.
        QueueFullError: The lane is at its bound.
        JobConflictError: The id is taken by another request.
        InvalidRequestError: An id or the model's name cannot be used.
        QueueUnavailableError: The pixels did not arrive.
    """
    for what, word in (("job id", job), ("client id", client or "none"), ("model", request.model.partition("@")[0])):
        _check_word(what, word)
    payloads, stage = payloads or {}, uuid.uuid4().hex
    if set(payloads) != {f"blob:{job}:{index}" for index in range(len(payloads))}:
        raise ValueError(f"expected payloads blob:{job}:0, blob:{job}:1, ... without gaps, got {sorted(payloads)[:3]}")
    text = request.model_dump_json()

    return Call(
        script("submit"),
        (
            job, sha256(text.encode()).hexdigest()[:32], request.model, str(lane), request.num_items,
            len(payloads), int(external_store), client, "" if request.deadline_s is None else _ms(request.deadline_s),
            _ms(settings.result_ttl_s), settings.max_queued_items, int(wait_for_worker), ticket_template(),
            request.task, text, stage,
        ),
        lambda answer: _submitted(answer, request.model, job, lane, settings),
        {keys.staged(stage, int(key.rpartition(":")[2])): data for key, data in payloads.items()},
        _ms(settings.blob_ttl_s),
    )  # fmt: skip


def _submitted(answer: list[bytes], target: str, job: str, lane: Lane, settings: Settings) -> Submitted:
    """Read the answer of ``submit.lua``."""
    verdict = answer[0].decode()
    if verdict == "no_worker":
        raise NoWorkerError(
            f"Expected a live worker for model {target!r} on the {lane} lane, found none. "
            f"Start one with: visionpipe worker {target.partition('@')[0]}",
            model=target,
        )
    if verdict == "full":
        raise _queue_full(target, lane, int(answer[1]), float(answer[2]), settings)
    if verdict == "conflict":
        raise JobConflictError(
            f"Expected a new job id, but {job!r} is taken by a different request. Choose another id."
        )
    if verdict == "unstored":
        raise QueueUnavailableError("Expected the job's pixels in Redis, but they did not arrive. Submit it again.")
    return Submitted(verdict == "created", JobState(answer[1].decode()))


def _check_word(what: str, word: str) -> None:
    if not re.fullmatch(ID_PATTERN, word) or word in RESERVED_IDS:
        raise InvalidRequestError(
            f"Expected a {what} of letters, digits, '_', '.' and '-', at most 128 of them, and not one of "
            f"{sorted(RESERVED_IDS)}; got {word!r}. Choose another."
        )


def _queue_full(target: str, lane: Lane, depth: int, rate: float, settings: Settings) -> QueueFullError:
    hint = min(max(0.1 * depth / rate, 0.5), 60.0) if rate else 5.0
    return QueueFullError(
        f"Expected room in the {lane} lane of {target!r}, but {depth} images wait (bound {settings.max_queued_items}). "
        f"Try again in {hint:.1f} s, add workers, or raise VISIONPIPE_MAX_QUEUED_ITEMS.",
        retry_after_s=hint,
        queued_items=depth,
    )


def claim(job: str, worker: str, token: str, model: ModelInfo, settings: Settings) -> Call[Claim | None]:
    """Take a queued job; none when it is not queued any more."""

    def parse(answer: list[Any]) -> Claim | None:
        if answer[0] == b"broken":
            logger.warning("the record of job %s is damaged or none of ours; its ticket was dropped", job)
        if answer[0] != b"claimed":
            return None
        _, request, lane, attempts, waited, left, finished, pixels, num_open, num_let_go = answer
        return Claim(
            job,
            token,
            request,
            Lane(lane.decode()),
            attempts,
            float(waited),
            float(left) if left else None,
            frozenset(int(index) for index in finished if index.isdigit() and len(index) <= MAX_DIGITS),
            pixels,
            num_open,
            num_let_go,
        )

    return Call(script("claim"), (job, worker, token, _ms(settings.lease_s), model.model_dump_json()), parse)


def mark(job: str, token: str, index: int) -> Call[bool]:
    """Name the item that is worked on alone; False when the job is no longer held."""
    return Call(script("mark"), (job, token, index), lambda answer: answer == b"ok")


def renew(held: Sequence[tuple[str, str]], settings: Settings) -> Call[list[str]]:
    """Renew the leases of (job, token) pairs; answers ``ok``, ``cancelled``, ``expired`` or ``lost`` for each."""
    flat = [part for pair in held for part in pair]
    times = (_ms(settings.lease_s), _ms(GRACE_S), _ms(settings.blob_ttl_s))
    return Call(script("renew"), (*times, *flat), lambda answer: [word.decode() for word in answer])


def commit(
    job: str,
    token: str,
    items: Iterable[tuple[int, bool, bytes]],
    *,
    final: JobState | None = None,
    error: ErrorInfo | None = None,
) -> Call[bool]:
    """Record outcomes as (index, has a result, item JSON); the job ends with its last item, or as ``final`` says.

    Answers False when the job is no longer held: the outcomes are thrown away.
    """
    flat = [part for index, ok, text in items for part in (index, int(ok), text)]
    head = (job, token, str(final or ""), error.model_dump_json() if error else "")
    return Call(script("commit"), (*head, *flat), lambda answer: answer == b"ok")


def progress(job: str, token: str, told: Progress) -> Call[bool]:
    """Record how far a running job is; False when it is no longer held."""
    return Call(script("progress"), (job, token, told.model_dump_json()), lambda answer: answer == b"ok")


def release(job: str, token: str, *, let_go: bool = False) -> Call[bool]:
    """Hand a job back unfinished; counts no attempt, but how often it was let go for want of a store."""
    return Call(script("release"), (job, token, ticket_template(), int(let_go)), lambda answer: answer == b"ok")


def cancel(job: str) -> Call[JobState | None]:
    """Stop a job: a queued one ends at once, a running one's worker is told. None when there is no such job."""
    return Call(script("cancel"), (job,), lambda answer: JobState(answer.decode()) if answer else None)


def sweep(settings: Settings) -> Call[Swept]:
    """Re-queue jobs whose lease ran out, end those past their deadline, rewrite lost tickets."""
    args = (settings.max_attempts, settings.max_marks, _ms(GRACE_S), _ms(settings.sweep_s), SWEEP_LIMIT)
    return Call(script("sweep", lapse=True), (ticket_template(), *args), lambda answer: Swept(*answer))


def expire_worker(worker: str, settings: Settings) -> Call[int]:
    """Re-queue everything a dead worker held, at once; answers how many jobs."""
    args = (worker, ticket_template(), settings.max_attempts, settings.max_marks)
    return Call(script("expire_worker", lapse=True), args, int)


def announce(record: WorkerRecord, settings: Settings) -> Call[None]:
    """Say that a worker lives and what it serves, for the next three beats.

    Raises:
        InvalidRequestError: Its id or its model's name cannot be used.
    """
    return _announce(record, _ms(3 * settings.renew_s))


def retire(record: WorkerRecord) -> Call[None]:
    """Say that a worker takes no more jobs."""
    return _announce(record, 0)


def _announce(record: WorkerRecord, valid_ms: int) -> Call[None]:
    _check_word("worker id", record.worker)
    _check_word("model", record.model)
    args = (record.worker, record.model_dump_json(), valid_ms, record.model, record.digest, *map(str, record.lanes))
    return Call(script("announce"), args, lambda _: None)


def touch(jobs: Iterable[str], settings: Settings) -> Call[None]:
    """Keep the pixels of queued jobs alive while somebody waits for them."""
    return Call(script("touch"), (_ms(settings.blob_ttl_s), *jobs), lambda _: None)


def gc(limit: int = 100) -> Call[list[str]]:
    """Take ended jobs off the list of those whose pixels still lie in an external store."""
    return Call(script("gc"), (limit,), lambda answer: [job.decode() for job in answer or []])
