"""Every operation of the queue. Each is a ``Call``; perform it with ``run`` or ``arun``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from visionpipe.errors import InvalidRequestError, JobConflictError, NoWorkerError, QueueFullError
from visionpipe.queue import keys, records
from visionpipe.queue.call import Call
from visionpipe.queue.records import Accounts, Claim, QueueStatus, RawEnvelope, Submitted, Swept
from visionpipe.queue.scripts import script
from visionpipe.queue.tickets import ticket_template
from visionpipe.schemas.jobs import ErrorInfo, JobRecord, JobState, Lane, ModelInfo, Progress, WorkerRecord
from visionpipe.schemas.requests import Request
from visionpipe.settings import Settings

RESERVED_IDS = {str(lane) for lane in Lane}
GRACE_S = 10
"""How long a worker may take to hand over a cancelled or expired job before the sweep ends it."""
SWEEP_LIMIT = 200


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
        payloads: Store key (``blob:<job>:<i>``, i counted from 0) → encoded image.
        external_store: Whether the job's pixels lie outside Redis.
        wait_for_worker: Accept the job though no worker serves the model now.

    Raises:
        NoWorkerError: No live worker serves the model.
        QueueFullError: The lane is at its bound.
        JobConflictError: The id is taken by another request.
        InvalidRequestError: The id is one of the reserved words.
    """
    if job in RESERVED_IDS:
        raise InvalidRequestError(f"Expected a job id other than {sorted(RESERVED_IDS)}, got {job!r}. Choose another.")
    payloads = payloads or {}
    text = request.model_dump_json()

    def parse(answer: list[bytes]) -> Submitted:
        verdict = answer[0].decode()
        if verdict == "no_worker":
            raise NoWorkerError(
                f"Expected a live worker for model {request.model!r} on the {lane} lane, found none. "
                f"Start one with: visionpipe worker {request.model.partition('@')[0]}",
                model=request.model,
            )
        if verdict == "full":
            raise _queue_full(request.model, lane, int(answer[1]), float(answer[2]), settings)
        if verdict == "conflict":
            raise JobConflictError(
                f"Expected a new job id, but {job!r} is taken by a different request. Choose another id."
            )
        return Submitted(verdict == "created", JobState(answer[1].decode()))

    return Call(
        script("submit"),
        (
            job, sha256(text.encode()).hexdigest()[:32], request.model, str(lane), max(1, len(request.images)),
            len(payloads), int(external_store), client, "" if request.deadline_s is None else _ms(request.deadline_s),
            _ms(settings.result_ttl_s), settings.max_queued_items, int(wait_for_worker), ticket_template(),
            request.task, text,
        ),
        parse,
        {keys.stored(key): data for key, data in payloads.items()},
        _ms(settings.blob_ttl_s),
    )  # fmt: skip


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
        if answer[0] != b"claimed":
            return None
        _, request, lane, attempts, waited, left, finished = answer
        return Claim(
            job,
            token,
            request,
            Lane(lane.decode()),
            attempts,
            float(waited),
            float(left) if left else None,
            frozenset(int(index) for index in finished),
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


def release(job: str, token: str) -> Call[bool]:
    """Hand a job back unfinished; counts no attempt."""
    return Call(script("release"), (job, token, ticket_template()), lambda answer: answer == b"ok")


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
    """Say that a worker lives and what it serves, for the next three beats."""
    return _announce(record, _ms(3 * settings.renew_s))


def retire(record: WorkerRecord) -> Call[None]:
    """Say that a worker takes no more jobs."""
    return _announce(record, 0)


def _announce(record: WorkerRecord, valid_ms: int) -> Call[None]:
    args = (record.worker, record.model_dump_json(), valid_ms, record.model, record.digest, *map(str, record.lanes))
    return Call(script("announce"), args, lambda _: None)


def read(job: str) -> Call[JobRecord | None]:
    """Read a job's record; none when it never was or has expired."""
    return Call(script("envelope"), (job, 0), lambda answer: records.job_record(job, answer[0]))


def envelope(job: str) -> Call[RawEnvelope | None]:
    """Read a job's record and items."""
    return Call(script("envelope"), (job, 1), lambda answer: records.raw_envelope(job, answer))


def read_items(job: str) -> Call[list[bytes]]:
    """Read the JSON of a job's finished items, by index."""

    def parse(answer: list[list[bytes]]) -> list[bytes]:
        raw = records.raw_envelope(job, answer)
        return raw.items if raw else []

    return Call(script("envelope"), (job, 1), parse)


def touch(jobs: Iterable[str], settings: Settings) -> Call[None]:
    """Keep the pixels of queued jobs alive while somebody waits for them."""
    return Call(script("touch"), (_ms(settings.blob_ttl_s), *jobs), lambda _: None)


def workers() -> Call[list[WorkerRecord]]:
    """Read the announcements of all live workers."""
    return Call(script("workers"), (), records.worker_records)


def queues() -> Call[list[QueueStatus]]:
    """Read the depth of every lane that was ever used."""

    def parse(answer: list[list[Any]]) -> list[QueueStatus]:
        found = []
        for name, jobs, items, running, oldest in answer:
            target, _, lane = name.decode().rpartition(":")
            waited = float(oldest) / 1000 if oldest else None
            found.append(
                QueueStatus(
                    target=target,
                    lane=Lane(lane),
                    queued_jobs=jobs,
                    queued_items=items,
                    running_items=running,
                    oldest_wait_s=waited,
                )
            )
        return sorted(found, key=lambda status: (status.target, status.lane))

    return Call(script("queues"), (), parse)


def accounts() -> Call[dict[str, Accounts]]:
    """Read, per model, how many items were submitted and how they ended."""

    def parse(answer: list[list[Any]]) -> dict[str, Accounts]:
        return {
            model.decode(): Accounts(**{name: int(n) for name, n in records.pairs(flat).items()})
            for model, flat in sorted(answer)
        }

    return Call(script("accounts"), (), parse)


def gc(limit: int = 100) -> Call[list[str]]:
    """Take ended jobs off the list of those whose pixels still lie in an external store."""
    return Call(script("gc"), (limit,), lambda answer: [job.decode() for job in answer or []])
