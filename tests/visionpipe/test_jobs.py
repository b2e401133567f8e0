"""What becomes of a job's outcomes, and how a job says itself."""

from __future__ import annotations

import asyncio

import pytest

from visionpipe.envelopes import outcomes, unwrap
from visionpipe.errors import CancelledError, DeadlineExceededError, InternalError, PoisonError
from visionpipe.jobs import AsyncJob
from visionpipe.queue import RawEnvelope
from visionpipe.schemas.jobs import Envelope, ErrorInfo, Item, JobRecord, JobState, Lane
from visionpipe.schemas.results import ClassificationResult, ClassScore
from visionpipe.transport import REMEMBERED, Bells

RESULT = ClassificationResult(classes=[ClassScore(class_id=1, label="one", score=1)])


def _envelope(state, total=3, error=None):
    return Envelope(job="j", state=state, total=total, items=[Item(index=1, result=RESULT)], error=error)


@pytest.mark.parametrize(
    ("state", "error", "expected"),
    [
        (JobState.CANCELLED, None, CancelledError),
        (JobState.EXPIRED, None, DeadlineExceededError),
        (JobState.FAILED, None, InternalError),
        (JobState.FAILED, ErrorInfo(code="poison", message="twice dead"), PoisonError),
    ],
)
def test_images_without_an_outcome_carry_why_their_job_ended(state, error, expected):
    envelope = _envelope(state, error=error)
    items = outcomes(envelope)
    assert [item.index for item in items] == [0, 1, 2]
    assert items[1].result == RESULT
    assert items[0].error is not None
    assert items[0].error.code == expected.code
    with pytest.raises(expected) as caught:
        unwrap(envelope)
    assert caught.value.details == {"job": "j", "index": 0}


class OneEnvelope:
    """A transport that knows one job."""

    def __init__(self, items: list[bytes]) -> None:
        self.bells = Bells()
        record = JobRecord(
            job="j",
            task="classification",
            model="m",
            lane=Lane.BULK,
            state=JobState.DONE,
            total=1,
            finished=1,
            attempts=0,
            submitted_at=0,
        )
        self.raw = RawEnvelope(record, None, items)

    async def record(self, job: str) -> JobRecord:
        return self.raw.record

    async def envelope(self, job: str) -> RawEnvelope:
        return self.raw


async def test_a_result_of_another_version_is_told_as_such():
    job = AsyncJob(OneEnvelope([b'{"index": 0, "result": {"task": "classification", "glow": 1}}']), "j")
    with pytest.raises(InternalError, match="same version"):
        await job.wait(1)


async def test_a_job_says_what_is_known_of_it():
    job = AsyncJob(OneEnvelope([Item(index=0, result=RESULT).model_dump_json().encode()]), "j")
    assert repr(job) == "<AsyncJob j>"
    assert (await job.result(0)) == RESULT
    assert repr(job) == "<AsyncJob j: classification by m, done 1/1>"


async def test_bells_ring_for_their_job_only_and_are_taken_down():
    bells = Bells()
    with bells.watch("a", blobs=2) as first, bells.watch("a") as second, bells.watch("b") as other:
        bells.ended("a")
        assert [await bell.wait(0.01) for bell in (first, second, other)] == [True, True, False]
        assert bells.watched() == {"a": 2, "b": 0}
        bells.ring_all()
        assert await other.wait(0.01)
    assert (len(bells), bells.watched()) == (0, {})


async def test_a_listener_rests_until_somebody_waits_but_lets_those_go_first_who_were_rung_for():
    bells, order = Bells(), []

    async def ask(job):
        with bells.watch(job) as bell:
            await bell.wait(5)
        order.append(job)

    waiting = asyncio.create_task(ask("a"))
    await asyncio.sleep(0)
    bells.ended("a")
    resting = asyncio.create_task(bells.rest())
    resting.add_done_callback(lambda _: order.append("rested"))
    await waiting
    assert (order, resting.done()) == (["a"], False)
    with bells.watch("b"):
        await resting
    await bells.rest()
    assert order == ["a", "rested"]


async def test_an_end_that_nobody_waited_for_is_remembered_but_not_for_ever():
    bells = Bells()
    for i in range(REMEMBERED + 1):
        bells.ended(f"job-{i}")
    with bells.watch("job-0") as forgotten, bells.watch("job-1") as remembered:
        assert await remembered.wait(0.01)
        assert not await forgotten.wait(0.01)
