"""The in-memory client is the client, without Redis."""

from __future__ import annotations

import doctest
import time

import pytest

from visionpipe import testing
from visionpipe.errors import (
    InternalError,
    InvalidImageError,
    JobConflictError,
    NoWorkerError,
    QueueUnavailableError,
    ResultTimeoutError,
    UnknownJobError,
)
from visionpipe.schemas.jobs import JobState
from visionpipe.schemas.results import ClassificationResult, ClassScore
from visionpipe.testing import AsyncMemoryClient, MemoryClient


def first_byte(image, options):
    if image == b"bad":
        raise InvalidImageError("expected an image, got junk")
    if image == b"bug":
        raise KeyError("oops")
    scores = [ClassScore(class_id=image[0] + i, label=f"class {i}", score=1 / (i + 1)) for i in range(options.top_k)]
    return ClassificationResult(classes=scores)


@pytest.fixture
def client():
    with MemoryClient({"classification": first_byte}) as client:
        yield client


def test_the_example_of_the_documentation_runs():
    tried = doctest.testmod(testing)
    assert (tried.failed, tried.attempted > 3) == (0, True)


def test_options_reach_the_handler_and_submissions_are_recorded(client):
    assert len(client.classify(b"\x07", model="resnet50", top_k=3).classes) == 3
    [submission] = client.submissions
    assert (submission.request.task, submission.request.model) == ("classification", "resnet50")
    assert submission.images == [b"\x07"]
    assert client.accounts()["resnet50"].done == 1


def test_large_images_travel_as_blobs_that_are_gone_afterwards(client):
    assert client.classify(b"\x09" * 9000).top.class_id == 9
    assert client.submissions[0].request.images[0].kind == "blob"
    assert client.memory._stored == {}


def test_a_handlers_errors_become_items_errors(client, caplog):
    with pytest.raises(InvalidImageError, match="got junk"):
        client.classify(b"bad")
    with pytest.raises(InternalError) as caught:
        client.classify(b"bug")
    assert "oops" not in str(caught.value)
    assert "oops" in caplog.text
    envelope = client.submit("classification", [b"bad", b"\x01"], model="m").wait(5)
    assert [item.ok for item in envelope.items] == [False, True]
    assert client.accounts()["m"].failed == 1


def test_faults_of_the_service_can_be_injected(client):
    client.fail_next(QueueUnavailableError("no Redis"), NoWorkerError("nobody"))
    for error in (QueueUnavailableError, NoWorkerError):
        with pytest.raises(error):
            client.classify(b"x")
    assert client.classify(b"\x01").top.class_id == 1


def test_a_task_without_handler_has_no_worker(client):
    with pytest.raises(NoWorkerError, match="no handler for 'segmentation'"):
        client.segment(b"x", model="unet")


def test_latency_and_timeouts_can_be_tried(monkeypatch):
    with MemoryClient({"classification": first_byte}, latency_s=0.3) as client:
        begun = time.monotonic()
        with pytest.raises(ResultTimeoutError):
            client.classify(b"\x01", timeout=0.05)
        job = client.job(client.submissions[0].job)
        assert job.state() is JobState.RUNNING
        assert job.result(5).task == "classification"
        assert 0.25 < time.monotonic() - begun < 2


def test_jobs_are_idempotent_conflict_and_are_cancelled(client):
    first = client.submit("classification", b"\x01", model="m", job="mine")
    assert client.submit("classification", b"\x01", model="m", job="mine").result(5) == first.result(5)
    with pytest.raises(JobConflictError):
        client.submit("classification", b"\x02", model="m", job="mine")
    assert len(client.submissions) == 1
    waiting = client.submit("segmentation", b"x", model="m", wait_for_worker=True)
    assert (waiting.state(), waiting.cancel(), waiting.state()) == (JobState.QUEUED, *[JobState.CANCELLED] * 2)
    with pytest.raises(UnknownJobError):
        client.job("never").cancel()


def test_uploads_are_reused(client):
    ref = client.upload(b"\x05" * 9000)
    assert [client.classify(ref).top.class_id for _ in range(2)] == [5, 5]


async def test_the_asyncio_client_does_the_same():
    async with AsyncMemoryClient({"classification": first_byte}) as client:
        assert (await client.classify(b"\x03")).top.class_id == 3
        assert [item.ok async for item in client.map("classification", [b"\x01"], model="m")] == [True]
        assert (await client.workers(), await client.queues()) == ([], [])
