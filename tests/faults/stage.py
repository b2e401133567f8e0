"""One queue, one probe model, the workers of one test, and the accounts that every fault must leave behind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.faults import table
from tests.faults.forge import Forge, Worker, wait_for
from tests.faults.probe_model import ProbeModel, picture
from visionpipe.queue import RawEnvelope, calls, connect, run
from visionpipe.schemas.images import BlobImage, ImageRef
from visionpipe.schemas.jobs import JobState, Lane
from visionpipe.schemas.requests import ClassificationRequest
from visionpipe.settings import Settings

Jobs = Mapping[str, Sequence[int]]
"""Job id → the numbers of its pictures."""


class Stage:
    """One queue, one probe model and the workers of one test.

    Args:
        forge: Makes workers.
        redis_url: The queue.
        models: The folder of the model.
        probe: The model.
    """

    def __init__(self, forge: Forge, redis_url: str, models: Path, probe: ProbeModel) -> None:
        self.redis_url, self.models, self.probe = redis_url, models, probe
        self.settings = Settings(redis_url=redis_url, lease_s=1.5, renew_s=0.3, sweep_s=0.3)
        self.redis = connect(redis_url)
        self._forge = forge
        self._jobs = itertools.count()

    def worker(self, *, redis_url: str | None = None, ready: bool = True, **how: Any) -> Worker:
        """Start a worker; see ``Forge.start``."""
        worker = self._forge.start(redis_url or self.redis_url, self.models, **how)
        if ready:
            self.wait_ready(worker)
        return worker

    def wait_ready(self, worker: Worker) -> None:
        def announced() -> bool:
            assert worker.alive, worker.log()
            return worker.worker in [record.worker for record in run(self.redis, calls.workers())]

        wait_for("a ready worker", announced)

    def submit(
        self,
        *numbers: int,
        refs: list[ImageRef] | None = None,
        lane: Lane = Lane.BULK,
        deadline_s: float | None = None,
        job: str | None = None,
    ) -> str:
        job = job or f"job-{next(self._jobs)}"
        payloads = {} if refs else {f"blob:{job}:{i}": picture(number) for i, number in enumerate(numbers)}
        images = refs or [
            BlobImage(key=key, size_bytes=len(data), name=str(number))
            for (key, data), number in zip(payloads.items(), numbers, strict=True)
        ]
        request = ClassificationRequest(model=self.probe.name, images=images, deadline_s=deadline_s)
        call = calls.submit(
            request, job=job, lane=lane, client="t", settings=self.settings, payloads=payloads, wait_for_worker=True
        )
        run(self.redis, call)
        return job

    def state(self, job: str) -> JobState:
        record = run(self.redis, calls.read(job))
        assert record is not None
        return record.state

    def ended(self, job: str, timeout_s: float = 60) -> RawEnvelope:
        wait_for(f"the end of {job}", lambda: self.state(job).ended, timeout_s)
        envelope = run(self.redis, calls.envelope(job))
        assert envelope is not None
        return envelope

    def logged(self, line: str) -> None:
        wait_for(f"{line!r} in the model's log", lambda: line in self.probe.lines())

    def account(
        self,
        title: str,
        jobs: Jobs,
        *,
        faults: int,
        fated: int = 0,
        emptied: bool = False,
        recovered_s: float | None = None,
    ) -> None:
        """Check what every fault must leave behind, and note it in the table.

        Args:
            title: What was done.
            jobs: The jobs.
            faults: How many struck the holder; each may cost one more execution of a picture.
            fated: Pictures that were to fail.
            emptied: Whether Redis lost its books in between.
            recovered_s: From the fault until all was done.
        """
        row = audit(self, title, jobs, allowed=1 + faults, recovered_s=recovered_s)
        assert row.failed == fated, row
        table.add(row)
        books = run(self.redis, calls.accounts())[self.probe.name]
        if not emptied:
            told = (books.submitted, books.done, books.failed, books.cancelled, books.expired)
            assert told == (row.items, row.done, row.failed, row.cancelled, row.expired)
        assert books.open == 0
        assert not list(self.redis.scan_iter("vp:blob:*")), "pixels are gone"
        assert not self.redis.exists("vp:leases", "vp:depth", "vp:running", "vp:deadlines")


def audit(stage: Stage, title: str, jobs: Jobs, *, allowed: int, recovered_s: float | None) -> table.Row:
    """Compare what the jobs' records say with what the model itself has counted."""
    executions = stage.probe.all_executions()
    ends = dict.fromkeys(("done", "failed", "cancelled", "expired"), 0)
    lost = doubled = 0
    for job, numbers in jobs.items():
        envelope = run(stage.redis, calls.envelope(job))
        assert envelope is not None, job
        items = [json.loads(text) for text in envelope.items]
        indices = [item["index"] for item in items]
        doubled += len(indices) - len(set(indices))
        for item in items:
            number = numbers[item["index"]]
            ends["done" if item.get("error") is None else "failed"] += 1
            if item.get("error") is None:
                assert item["result"]["classes"][0]["label"] == str(number % 10), (job, item)
                assert executions[number], f"picture {number} has a result that nobody computed"
        missing = len(numbers) - len(indices)
        if missing and envelope.record.state in (JobState.DONE, JobState.QUEUED, JobState.RUNNING):
            lost += missing
        elif missing:
            ends[str(envelope.record.state)] += missing
    mine = {number: executions[number] for numbers in jobs.values() for number in numbers}
    doubled += sum(times > allowed for times in mine.values())
    over = sum(mine.values()) - sum(times > 0 for times in mine.values())
    return table.Row(
        title,
        len(jobs),
        sum(map(len, jobs.values())),
        *ends.values(),
        lost=lost,
        doubled=doubled,
        over=over,
        bound=allowed,
        recovery_s=recovered_s,
    )
