"""The calls that only read. They are part of ``calls``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from visionpipe.queue import records
from visionpipe.queue.call import Call
from visionpipe.queue.records import Accounts, QueueStatus, RawEnvelope
from visionpipe.queue.scripts import script
from visionpipe.schemas.jobs import JobRecord, Lane, WorkerRecord


def read(job: str) -> Call[JobRecord | None]:
    """Read a job's record; none when it never was or has expired."""
    args = (job, 0, *records.FIELDS)
    return Call(script("envelope"), args, lambda answer: records.job_record(job, answer[0]))


def envelope(job: str) -> Call[RawEnvelope | None]:
    """Read a job's record and items."""
    return Call(script("envelope"), (job, 1, *records.FIELDS), lambda answer: records.raw_envelope(job, answer))


def read_items(job: str) -> Call[list[bytes]]:
    """Read the JSON of a job's finished items, by index."""

    def parse(answer: list[Any]) -> list[bytes]:
        raw = records.raw_envelope(job, answer)
        return raw.items if raw else []

    return Call(script("envelope"), (job, 1, *records.FIELDS), parse)


def workers() -> Call[list[WorkerRecord]]:
    """Read the announcements of all live workers."""
    return Call(script("workers"), (), records.worker_records)


def queues() -> Call[list[QueueStatus]]:
    """Read the depth of every lane that is served or in which something waits or runs."""

    def parse(answer: list[list[Any]]) -> list[QueueStatus]:
        found = []
        for name, jobs, items, running, oldest in answer:
            target, _, lane = name.decode(errors="replace").rpartition(":")
            if lane not in list(Lane):
                continue
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


def _counts(flat: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """The counters of an account, without what a stranger may have written among them."""
    for name, number in records.pairs(flat).items():
        if name in Accounts.model_fields and re.fullmatch(rb"-?\d{1,18}", number):
            yield name, number


def accounts() -> Call[dict[str, Accounts]]:
    """Read, per model, how many items were submitted and how they ended."""

    def parse(answer: list[list[Any]]) -> dict[str, Accounts]:
        return {
            model.decode(errors="replace"): Accounts(**{name: int(n) for name, n in _counts(flat)})
            for model, flat in sorted(answer)
        }

    return Call(script("accounts"), (), parse)
