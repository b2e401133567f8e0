"""The client against a real Redis and a worker that answers through the real queue."""

from __future__ import annotations

import asyncio
import time

import pytest

from visionpipe.aclient import AsyncClient
from visionpipe.errors import (
    ArtifactExpiredError,
    CancelledError,
    ImageNotFoundError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidRequestError,
    JobConflictError,
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
    ResultTimeoutError,
    SettingsError,
    UnknownJobError,
    UnknownTaskError,
    UnsupportedImageError,
)
from visionpipe.queue import aconnect, connect
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.jobs import JobState, Lane
from visionpipe.schemas.requests import ClassificationOptions
from visionpipe.schemas.results import ClassificationResult
from visionpipe.tasks import parse_envelope

MODEL = "lenet-digits"


@pytest.fixture
async def client(settings):
    async with AsyncClient(settings=settings) as client:
        yield client


async def test_one_image_gives_one_typed_result(client, fake_worker):
    result = await client.classify(b"seven..")
    assert isinstance(result, ClassificationResult)
    assert result.top.class_id == 7


@pytest.mark.parametrize("size", [10, 8001, 3_000_000])
async def test_small_and_large_images_arrive_whole_and_leave_nothing_behind(client, fake_worker, redis_url, size):
    assert (await client.classify(b"x" * size)).top.class_id == size
    with connect(redis_url) as redis:
        assert redis.keys("vp:blob:*") == []


async def test_a_job_of_many_images_gives_results_in_order(client, fake_worker, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    job = await client.submit(ClassificationResult, [tmp_path / "a.jpg", b"x" * 9000, b"."], model=MODEL)
    assert [result.top.class_id for result in await job.results(5)] == [3, 9000, 1]
    envelope = await job.wait(5)
    assert [item.name for item in envelope.items] == [str(tmp_path / "a.jpg"), None, None]
    assert envelope.model is not None
    assert envelope.model.name == MODEL
    assert parse_envelope("classification", envelope.model_dump_json()).items == envelope.items


async def test_a_bad_image_raises_its_own_error_and_spares_its_neighbours(client, fake_worker):
    def fussy(data, request):
        if data == b"bad":
            raise InvalidImageError("expected an image, got junk")
        return length(data, request)

    length, fake_worker.answer = fake_worker.answer, fussy
    with pytest.raises(InvalidImageError, match="got junk") as caught:
        await client.classify(b"bad")
    assert caught.value.details["index"] == 0
    job = await client.submit("classification", [b"good", b"bad", b"fine"], model=MODEL)
    envelope = await job.wait(5)
    assert [item.ok for item in envelope.items] == [True, False, True]
    with pytest.raises(InvalidImageError) as caught:
        await job.results()
    assert caught.value.details == {"job": job.id, "index": 1}


async def test_local_faults_are_told_before_anything_is_sent(client, settings):
    with pytest.raises(ImageNotFoundError, match="No such file"):
        await client.classify("/no/such.jpg")
    with pytest.raises(UnknownTaskError):
        await client.submit("telepathy", b"x", model=MODEL)
    with pytest.raises(UnsupportedImageError, match="got int"):
        await client.submit("classification", 12, model=MODEL)
    for wrong in ({"images": []}, {"model": "No Such Name"}, {"deadline_s": -1}):
        with pytest.raises(InvalidRequestError):
            await client.submit("classification", **{"images": b"x", "model": MODEL, **wrong})
    with pytest.raises(InvalidRequestError, match="top_k"):
        await client.classify(b"x", top_k=0)
    with pytest.raises(InvalidRequestError, match="job id"):
        await client.submit("classification", b"x", model=MODEL, job="a:b")
    async with AsyncClient(settings=settings.model_copy(update={"max_image_bytes": 10})) as strict:
        with pytest.raises(ImageTooLargeError):
            await strict.classify(b"x" * 11)
    assert await client.accounts() == {}


async def test_without_a_worker_the_answer_is_immediate_unless_told_to_wait(client):
    begun = time.monotonic()
    with pytest.raises(NoWorkerError, match="visionpipe worker lenet-digits"):
        await client.classify(b"x" * 9000)
    assert time.monotonic() - begun < 2
    job = await client.submit("classification", b"x", model=MODEL, wait_for_worker=True)
    assert await job.state() is JobState.QUEUED


async def test_a_full_queue_says_when_to_come_again(settings, fake_worker):
    fake_worker.hold()
    async with AsyncClient(settings=settings.model_copy(update={"max_queued_items": 3})) as client:
        await client.submit("classification", [b"a", b"b", b"c"], model=MODEL)
        with pytest.raises(QueueFullError) as caught:
            await client.submit("classification", b"d", model=MODEL)
    assert caught.value.details["retry_after_s"] > 0


async def test_the_same_id_and_request_is_the_same_job(client, fake_worker):
    image = b"x" * 9000
    first = await client.submit("classification", image, model=MODEL, job="mine-1")
    await first.wait(5)
    second = await client.submit("classification", image, model=MODEL, job="mine-1")
    assert (await second.result(5)) == await first.result()
    assert len(fake_worker.requests) == 1
    fake_worker.hold()
    queued = await client.submit(ClassificationResult, image, model=MODEL, job="mine-2")
    with pytest.raises(JobConflictError):
        await client.submit("classification", b"y" * 9000, model=MODEL, job="mine-2")
    fake_worker.release()
    assert (await queued.result(5)).top.label == "x" * 20
    for other in ({"images": b"y" * 9000}, {"options": ClassificationOptions(top_k=1)}):
        with pytest.raises(JobConflictError):
            await client.submit("classification", **{"images": image, "model": MODEL, "job": "mine-1", **other})


async def test_a_job_is_found_again_by_its_id_from_another_client(client, fake_worker, settings):
    fake_worker.hold()
    job = await client.submit("classification", b"four", model=MODEL)
    async with AsyncClient(settings=settings) as other:
        found = other.job(job.id)
        assert await found.state() is JobState.QUEUED
        assert (await found.progress()).total == 1
        assert repr(found) == f"<AsyncJob {job.id}: classification by lenet-digits, queued 0/1>"
        waiting = asyncio.create_task(found.result(5))
        await asyncio.sleep(0.1)
        fake_worker.release()
        result = await waiting
    assert isinstance(result, ClassificationResult)
    assert result.top.class_id == 4


async def test_a_job_that_never_was_is_unknown(client):
    job = client.job("never-was")
    for ask in (job.record, job.state, job.wait, job.result, job.cancel, job.envelope):
        with pytest.raises(UnknownJobError, match="never-was"):
            await ask()


async def test_patience_ends_in_time_and_the_job_goes_on(client, fake_worker):
    fake_worker.hold()
    job = await client.submit("classification", b"four", model=MODEL)
    for timeout in (0, 0.1):
        begun = time.monotonic()
        with pytest.raises(ResultTimeoutError, match="It goes on"):
            await job.wait(timeout)
        assert time.monotonic() - begun < 3
    fake_worker.release()
    assert (await job.result(5)).top.class_id == 4  # type: ignore[attr-defined]


async def test_a_cancelled_job_raises_cancelled(client, fake_worker):
    fake_worker.hold()
    job = await client.submit("classification", [b"a", b"b"], model=MODEL)
    waiting = asyncio.create_task(job.results(5))
    await asyncio.sleep(0.05)
    assert await job.cancel() is JobState.CANCELLED
    with pytest.raises(CancelledError):
        await waiting
    assert (await client.accounts())[MODEL].cancelled == 2


async def test_result_of_a_job_of_several_images_points_to_results(client, fake_worker):
    job = await client.submit("classification", [b"a", b"b"], model=MODEL)
    with pytest.raises(InvalidRequestError, match=r"results\(\)"):
        await job.result(5)


async def test_an_upload_is_used_by_many_jobs_and_outlives_them(client, fake_worker):
    ref = await client.upload(b"x" * 9000)
    for _ in range(2):
        assert (await client.classify(ref)).top.class_id == 9000
    with pytest.raises(InvalidRequestError, match="only pixels"):
        await client.upload(ref)


async def test_an_artifact_that_is_gone_has_expired(client, redis_url):
    ref = ArtifactRef(key=f"artifact:{'a' * 64}", media_type="image/png", size_bytes=4)
    with connect(redis_url) as redis:
        redis.set(f"vp:{ref.key}", b"\x89PNG")
        assert await client.artifact(ref) == b"\x89PNG"
        redis.delete(f"vp:{ref.key}")
    with pytest.raises(ArtifactExpiredError, match="run the job again"):
        await client.artifact(ref)


async def test_paths_below_a_root_that_all_workers_mount_go_by_reference(settings, fake_worker, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "x.jpg").write_bytes(b"x" * 20)
    mine = settings.model_copy(update={"media_roots": {"scans": tmp_path / "scans", "mine": tmp_path}})
    async with AsyncClient(settings=mine) as client:
        assert (await client.classify(tmp_path / "scans" / "x.jpg")).top.class_id == 20
        fake_worker.media_roots = {"scans": tmp_path / "scans"}
        fake_worker.announce()
    async with AsyncClient(settings=mine) as client:
        assert (await client.classify(tmp_path / "scans" / "x.jpg")).top.class_id == 20
    assert [request.images[0].kind for request in fake_worker.requests] == ["inline", "media"]


async def test_an_external_store_holds_the_pixels_and_redis_none(settings, fake_worker, tmp_path, redis_url):
    outside = settings.model_copy(update={"store_url": f"file://{tmp_path}/pixels"})
    fake_worker.settings = outside
    async with AsyncClient(settings=outside) as client:
        fake_worker.hold()
        job = await client.submit("classification", b"x" * 9000, model=MODEL)
        assert (tmp_path / "pixels" / "blob" / job.id / "0").stat().st_size == 9000
        with connect(redis_url) as redis:
            assert redis.keys("vp:blob:*") == []
            with pytest.raises(JobConflictError):
                await client.submit("classification", b"y" * 9001, model=MODEL, job=job.id)
            fake_worker.release()
            assert (await job.result(5)).top.label == "x" * 20  # type: ignore[attr-defined]
            assert redis.lrange("vp:gc", 0, -1) == [job.id.encode()]
        with pytest.raises(NoWorkerError):
            await client.submit("classification", b"x" * 9000, model="other", job="refused-1")
        assert not (tmp_path / "pixels" / "blob" / "refused-1").exists()


async def test_a_client_needs_a_redis_and_says_how_to_name_one(settings):
    with pytest.raises(SettingsError, match="VISIONPIPE_REDIS_URL"):
        AsyncClient(settings=settings.model_copy(update={"redis_url": None}))
    with pytest.raises(QueueUnavailableError):
        AsyncClient("http://nonsense")


async def test_a_closed_client_and_one_of_another_loop_say_so(client, settings):
    await client.workers()
    with pytest.raises(InvalidRequestError, match="another process or event loop"):
        await asyncio.to_thread(lambda: asyncio.run(client.workers()))
    await client.aclose()
    await client.aclose()
    with pytest.raises(InvalidRequestError, match="closed"):
        await client.queues()
    assert repr(client) == "<AsyncClient over RedisTransport, closed>"


async def test_the_lanes_and_workers_can_be_seen(client, fake_worker):
    fake_worker.hold()
    await client.submit("classification", [b"a", b"b"], model=MODEL, lane=Lane.BULK)
    assert [worker.worker for worker in await client.workers()] == ["fake-1"]
    bulk = next(lane for lane in await client.queues() if (lane.target, lane.lane) == (MODEL, Lane.BULK))
    assert (bulk.queued_jobs, bulk.queued_items) == (1, 2)


async def test_a_thousand_waits_that_time_out_leave_nothing_behind(client, fake_worker, redis_url):
    fake_worker.hold()
    job = await client.submit("classification", b"x", model=MODEL)
    stranger = client.job(job.id)
    tasks = len(asyncio.all_tasks())
    waits = await asyncio.gather(
        *(waiter.wait(0.3) for waiter in [job, stranger] for _ in range(500)), return_exceptions=True
    )
    assert {type(wait) for wait in waits} == {ResultTimeoutError}
    await asyncio.sleep(0.05)
    assert len(asyncio.all_tasks()) == tasks
    assert len(client._transport.bells) == 0
    async with aconnect(redis_url) as redis:
        assert len(await redis.client_list()) < 25
    fake_worker.release()
    assert (await job.wait(5)).state is JobState.DONE


async def test_many_jobs_at_once_each_get_their_own_answer(client, fake_worker):
    results = await asyncio.gather(*(client.classify(b"x" * (1 + i % 50)) for i in range(300)))
    assert [result.top.class_id for result in results] == [1 + i % 50 for i in range(300)]


async def test_an_idle_round_costs_little_of_our_own_time(client, fake_worker, redis_url):
    """Processor time of this thread, best of several: client, JSON and redis-py together, in calls of bare redis-py."""

    async def cost_s(call):
        begun = time.thread_time()
        for _ in range(20):
            await call(b"x" * 5000)
        return time.thread_time() - begun

    async with aconnect(redis_url) as redis:
        pairs = [(await cost_s(redis.echo), await cost_s(client.classify)) for _ in range(6)]
    bare_s, ours_s = (min(costs) for costs in zip(*pairs, strict=True))
    assert ours_s < 16 * bare_s, pairs
