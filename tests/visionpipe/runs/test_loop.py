"""How a sitting ends when Redis goes away with its last chunk, and when something is wrong with the run itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from visionpipe.errors import LedgerError, QueueUnavailableError
from visionpipe.queue import RawEnvelope
from visionpipe.runs.artifacts import Artifacts
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.loop import Loop
from visionpipe.runs.outcomes import raw_outcomes
from visionpipe.runs.outputs import write_outputs
from visionpipe.runs.rows import Chunk
from visionpipe.runs.scan import Found
from visionpipe.runs.sizing import Sizer
from visionpipe.runs.spec import RunSpec, full_options
from visionpipe.schemas.jobs import JobRecord, JobState, Lane, Usage, WorkerRecord
from visionpipe.settings import Settings

IMAGES = 100
ITEM = b'{"index":%d,"result":{"task":"classification","image_size_wh":[8,9],"classes":[]}}'
TARGET = f"m@{'0' * 12}"


def used(images: int) -> Usage:
    return Usage(
        host="a", device="cpu", cores=4, images=images,
        decode_s=0.0, forward_s=0.001 * images, postprocess_s=0.0, other_s=0.0, device_s=0.0,
    )  # fmt: skip


class Service:
    """Answers every job at once; its one worker has used a millisecond for each image."""

    def __init__(self) -> None:
        self.answered = 0
        self.on_answer: Callable[[], None] = lambda: None
        self.is_away = False

    async def workers(self) -> list[WorkerRecord]:
        if self.is_away:
            raise QueueUnavailableError("away")
        worker = WorkerRecord(
            worker="w", model="m", digest="0" * 12, tasks=["classification"], device="cpu", precision="fp32",
            lanes=list(Lane), max_batch=8, version="0", started_at=0, usage=used(self.answered),
        )  # fmt: skip
        return [worker]

    async def submit(self, task: str, images: Sequence[Any], *, model: str, job: str, **_: Any) -> Job:
        record = JobRecord(
            job=job, task=task, model=model, lane=Lane.BULK, state=JobState.DONE, total=len(images),
            finished=len(images), attempts=0, submitted_at=0.0,
        )  # fmt: skip
        return Job(self, RawEnvelope(record, None, [ITEM % index for index in range(len(images))]))


class Job(NamedTuple):
    """One that has ended."""

    service: Service
    raw: RawEnvelope

    async def wait_raw(self) -> RawEnvelope:
        self.service.answered += len(self.raw.items)
        self.service.on_answer()
        return self.raw


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(IMAGES):
        (folder / f"{index:03}.png").write_bytes(b"pixels")
    return RunSpec(folder, "classification", "m", full_options("classification", {}))


@pytest.fixture
def ledger(tmp_path: Path, spec: RunSpec) -> Iterator[Ledger]:
    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out", spec) as ledger:
        ledger.add(Found(b"%03d.png" % index, 6, 1) for index in range(IMAGES))
        yield ledger


def sitting(service: Any, ledger: Ledger, spec: RunSpec) -> Loop:
    artifacts = Artifacts(service, ledger.path.parent, spec.task)
    return Loop(service, ledger, spec, TARGET, Settings(), Sizer(IMAGES // 2), lambda _: None, artifacts)


@pytest.mark.timeout(20)
async def test_a_finished_run_does_not_wait_for_a_redis_that_went_away_with_its_last_chunk(ledger, spec, monkeypatch):
    monkeypatch.setattr("visionpipe.runs.loop.LOOK_S", 0.0)
    service = Service()

    def leave_at_the_end() -> None:
        service.is_away = service.answered == IMAGES

    service.on_answer = leave_at_the_end
    loop = sitting(service, ledger, spec)
    await loop.run()
    assert ledger.counts().done == IMAGES


async def test_what_is_wrong_is_told_and_not_that_the_ceiling_could_not_be_noted(ledger, spec, monkeypatch):
    service = Service()
    loop = sitting(service, ledger, spec)
    flying_at_note: list[int] = []

    def fail() -> None:
        if service.answered == IMAGES:
            raise ZeroDivisionError("a fault of ours")

    def note(name: str, value: str) -> None:
        flying_at_note.append(sum(not task.done() for task in loop._flying))
        raise LedgerError("the disk is full")

    service.on_answer = fail
    monkeypatch.setattr(ledger, "note", note)
    monkeypatch.setattr(loop._watch, "spent", lambda: [used(IMAGES)])
    loop._fly(Chunk(99, "slow", ()), asyncio.sleep(30))
    with pytest.raises(ZeroDivisionError):
        await loop.run()
    assert flying_at_note == [0]


async def test_the_share_of_a_resumed_run_is_that_of_its_last_sitting(ledger, spec):
    # Hours that an earlier sitting took, perhaps on other machines.
    with Ledger(ledger.path.parent, spec) as earlier:
        chunk = earlier.cut(10, 1000)
        raw = (await Service().submit(spec.task, chunk.inputs, model=TARGET, job=chunk.job)).raw
        earlier.settle(chunk, raw_outcomes(raw), model=None, worked_s=10_000.0)
    await sitting(Service(), ledger, spec).run()
    report = write_outputs(ledger, spec, ledger.path.parent, lambda _: None)
    assert (report.done, report.images_per_s) == (IMAGES, 0.01)
    assert report.ceiling.images_per_s == pytest.approx(4000)
    last_s = ledger.work()[0] - 10_000
    assert report.ceiling.share * 4000 == pytest.approx((IMAGES - 10) / last_s, rel=0.01)
