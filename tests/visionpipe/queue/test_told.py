"""What comes with the news of an end is what a reader of the record would find."""

from __future__ import annotations

import time
from typing import Any

import pytest

from visionpipe.queue import RawEnvelope, calls, keys, told_envelope
from visionpipe.queue.records import FIELDS
from visionpipe.schemas.jobs import JobState


def told(queue: Any, job: str) -> tuple[dict[bytes, bytes], RawEnvelope | None]:
    """The last news of a job."""
    entries = [fields for _, fields in queue.redis.xrange(keys.reply("c1")) if fields[b"job"] == job.encode()]
    return entries[-1], told_envelope(job, entries[-1])


def read(queue: Any, job: str) -> RawEnvelope:
    found = queue.do(calls.envelope(job))
    assert found is not None
    return found


def test_one_answer_comes_with_its_news(queue):
    claim = queue.held(1)
    queue.commit(claim, (0, True, b'{"index":0}'))
    fields, found = told(queue, claim.job)
    assert found == read(queue, claim.job)
    assert found.items == [b'{"index":0}']
    assert found.record.state is JobState.DONE
    assert {name.decode() for name in fields} <= {"job", "item", *FIELDS}


@pytest.mark.parametrize("how", ["cancelled while it waits", "failed", "expired"])
def test_so_does_an_end_without_an_answer(queue, how):
    if how == "failed":
        claim = queue.held(1)
        job = claim.job
        queue.commit(claim, final=JobState.FAILED)
    elif how == "expired":
        job = queue.submit(1, deadline_s=0.001)
        time.sleep(0.01)
        queue.claim(job)
    else:
        job = queue.submit(1)
        queue.do(calls.cancel(job))
    _, found = told(queue, job)
    assert found == read(queue, job)
    assert found.items == []
    assert found.record.state.ended


@pytest.mark.parametrize(("num_items", "size"), [(2, 10), (1, 5000)])
def test_several_or_large_answers_are_read_for_themselves(queue, num_items, size):
    claim = queue.held(num_items)
    queue.commit(claim, *((index, True, b"x" * size) for index in range(num_items)))
    fields, found = told(queue, claim.job)
    assert found is None
    assert fields == {b"job": claim.job.encode(), b"state": b"done"}


def test_every_field_that_a_reader_wants_is_told(queue):
    claim = queue.held(1, deadline_s=60)
    # Some belong to ends that exclude each other.
    for name in FIELDS:
        if not queue.redis.hexists(keys.job(claim.job), name):
            queue.redis.hset(keys.job(claim.job), name, "1")
    queue.commit(claim, (0, True, b"{}"))
    fields, _ = told(queue, claim.job)
    assert {name.decode() for name in fields} == {"job", "item", *FIELDS}


@pytest.mark.parametrize(
    "damage",
    [
        {b"total": b"many"},
        {b"state": b"flying"},
        {b"model_info": b"["},
        {b"error": b"7"},
        {b"lane": b"\xff"},
        {b"progress": b"[" * 2000},
    ],
)
def test_damaged_news_are_no_answer(queue, damage):
    claim = queue.held(1)
    queue.commit(claim, (0, True, b"{}"))
    fields, _ = told(queue, claim.job)
    assert told_envelope(claim.job, fields | damage) is None


def test_a_job_nobody_waits_for_tells_nobody(queue):
    claim = queue.held(1, client="")
    queue.commit(claim, (0, True, b"{}"))
    assert not queue.redis.exists(keys.reply(""))
