"""Waiters outlive a Redis that goes away, and replies that never come."""

from __future__ import annotations

import asyncio
import time

import pytest

from visionpipe import jobs, redis_transport, transport
from visionpipe.aclient import AsyncClient
from visionpipe.errors import JobConflictError, QueueUnavailableError
from visionpipe.queue import connect, keys
from visionpipe.schemas.jobs import JobState
from visionpipe.settings import Settings
from visionpipe.transport import REST_S

MODEL = "lenet-digits"


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(redis_transport, "PATIENCE_S", 0.5)


async def _submit(client, image=b"four"):
    return await client.submit("classification", image, model=MODEL, wait_for_worker=True)


async def test_a_redis_that_is_not_there_is_told_soon(tmp_path, patient):
    async with AsyncClient(f"unix://{tmp_path}/none.sock", settings=Settings()) as client:
        begun = time.monotonic()
        for ask in (client.workers(), client.classify(b"x")):
            with pytest.raises(QueueUnavailableError, match="VISIONPIPE_REDIS_URL"):
                await ask
        assert time.monotonic() - begun < 5


async def test_a_waiter_outlives_a_restart_of_redis(redis_server, patient):
    settings = Settings(redis_url=redis_server.url)
    async with AsyncClient(settings=settings) as client:
        job = await _submit(client)
        waiting = asyncio.create_task(job.wait(20))
        await asyncio.sleep(1.2)
        await asyncio.to_thread(redis_server.stop)
        await asyncio.sleep(0.3)
        redis_server.start()
        assert await asyncio.to_thread(redis_server.wait_ready, 20)
        async with AsyncClient(settings=settings) as other:
            assert await other.job(job.id).cancel() is JobState.CANCELLED
        assert (await waiting).state is JobState.CANCELLED


async def test_a_waiter_whose_redis_stays_away_is_told_when_its_time_is_over(redis_server, patient, monkeypatch):
    monkeypatch.setattr(jobs, "RECHECK_S", 0.1)
    async with AsyncClient(settings=Settings(redis_url=redis_server.url)) as client:
        job = await _submit(client)
        await asyncio.to_thread(redis_server.stop)
        begun = time.monotonic()
        with pytest.raises(QueueUnavailableError):
            await job.wait(1.5)
        assert time.monotonic() - begun < 3
        monkeypatch.setattr(jobs, "OUTAGE_S", 0.3)
        with pytest.raises(QueueUnavailableError):
            await job.wait()


async def test_a_call_survives_connections_that_are_cut(settings, fake_worker):
    async with AsyncClient(settings=settings) as client:
        with connect(str(settings.redis_url)) as redis:
            for i in range(10):
                # The one that listens rests for a moment after each reply.
                await asyncio.sleep(4 * REST_S)
                ours = [peer for peer in redis.client_list() if peer["cmd"] in ("xread", "evalsha")]
                assert len(ours) == 2 or i == 0
                for peer in ours:
                    redis.client_kill_filter(_id=peer["id"])
                assert (await client.classify(b"x" * (1 + i), timeout=20)).top.class_id == 1 + i


async def test_a_lost_reply_costs_one_recheck(settings, fake_worker, monkeypatch):
    monkeypatch.setattr(jobs, "RECHECK_S", 0.3)
    async with AsyncClient(settings=settings) as client:
        fake_worker.hold()
        job = await _submit(client)
        client._transport._tasks[0].cancel()
        fake_worker.release()
        begun = time.monotonic()
        await job.wait(5)
        assert 0.1 < time.monotonic() - begun < 2


async def test_pixels_of_a_job_that_somebody_waits_for_are_kept_alive(settings, redis_url):
    mortal = settings.model_copy(update={"blob_ttl_s": 0.8})
    async with AsyncClient(settings=mortal) as client:
        watched, forgotten = await _submit(client, b"x" * 9000), await _submit(client, b"y" * 9000)
        waiting = asyncio.create_task(watched.wait())
        await asyncio.sleep(1.5)
        with connect(redis_url) as redis:
            assert redis.keys("vp:blob:*") == [f"vp:blob:{watched.id}:0".encode()]
        assert await watched.cancel() is JobState.CANCELLED
        await waiting
        assert await forgotten.state() is JobState.QUEUED


async def test_pixels_in_an_external_store_are_kept_alive_too(settings, tmp_path):
    mortal = settings.model_copy(update={"blob_ttl_s": 0.8, "store_url": f"file://{tmp_path}"})
    async with AsyncClient(settings=mortal) as client:
        watched, forgotten = await _submit(client, b"x" * 9000), await _submit(client, b"y" * 9000)
        waiting = asyncio.create_task(watched.wait())
        await asyncio.sleep(1.5)
        store = client._transport._store
        assert store.get(f"blob:{watched.id}:0") == b"x" * 9000
        assert store.get(f"blob:{forgotten.id}:0") is None
        waiting.cancel()


async def test_closing_leaves_no_task_and_no_connection(settings, redis_url):
    tasks = len(asyncio.all_tasks())
    with connect(redis_url) as redis:
        connections = len(redis.client_list())
        for _ in range(5):
            async with AsyncClient(settings=settings) as client:
                await _submit(client)
        await asyncio.sleep(0.1)
        assert len(redis.client_list()) == connections
        assert len(asyncio.all_tasks()) == tasks


async def test_nonsense_among_the_replies_deafens_nobody(settings, fake_worker, monkeypatch):
    monkeypatch.setattr(jobs, "RECHECK_S", 60)
    async with AsyncClient(settings=settings) as client:
        fake_worker.hold()
        job = await _submit(client)
        with connect(str(settings.redis_url)) as redis:
            for fields in ({"job": "a"}, {"state": "flying", "job": "b"}, {"state": "done"}, {b"\xff": b"\xfe"}):
                redis.xadd(keys.reply(client._transport.client), fields)
            redis.xadd(keys.reply(client._transport.client), {"state": "done", "job": b"\xff\xfe"})
        await asyncio.sleep(0.3)
        fake_worker.release()
        assert (await job.wait(20)).state is JobState.DONE


async def test_a_reply_that_came_before_the_wait_is_remembered(settings, fake_worker):
    async with AsyncClient(settings=settings) as client:
        job = await _submit(client)
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        await job.wait(5)
        assert time.monotonic() - begun < 2
        assert keys.reply(client._transport.client).startswith("vp:reply:")


async def test_a_store_that_cannot_be_used_is_told_as_one_of_our_errors(settings):
    # Nobody can write there, not even root.
    broken = settings.model_copy(update={"store_url": "file:///proc/none"})
    async with AsyncClient(settings=broken) as client:
        with pytest.raises(QueueUnavailableError, match="VISIONPIPE_STORE_URL"):
            await client.upload(b"x" * 9000)
        with pytest.raises(QueueUnavailableError, match="VISIONPIPE_STORE_URL"):
            await _submit(client, b"x" * 9000)


async def test_a_single_answer_is_not_asked_for_again(settings, fake_worker, monkeypatch):
    async with AsyncClient(settings=settings) as client:

        async def asked(job: str) -> None:
            raise AssertionError(job)

        monkeypatch.setattr(client._transport, "envelope", asked)
        envelope = await (await _submit(client)).wait(20)
        assert envelope.state is JobState.DONE
        assert envelope.items[0].result is not None
        # Two who wait for one job both get it.
        fake_worker.hold()
        job = await _submit(client, b"five!")
        waiting = [asyncio.create_task(job.wait(20)) for _ in range(2)]
        await asyncio.sleep(0.1)
        fake_worker.release()
        first, second = await asyncio.gather(*waiting)
        assert first == second
        assert not client._transport.bells._told


async def test_an_answer_that_was_heard_is_not_given_for_another_job_of_its_id(settings, fake_worker):
    async with AsyncClient(settings=settings) as client:
        await client.submit("classification", b"four", model=MODEL, job="again")
        await asyncio.sleep(0.3)
        assert "again" in client._transport.bells._told
        with connect(str(settings.redis_url)) as redis:
            redis.delete(keys.job("again"), keys.items("again"))
        async with AsyncClient(settings=settings) as other:
            await other.submit("classification", b"six...", model=MODEL, job="again")
            assert (await client.job("again").result(20)).classes[0].class_id == 6
        with pytest.raises(JobConflictError):
            await client.submit("classification", b"seven!!", model=MODEL, job="again")
        with connect(str(settings.redis_url)) as redis:
            redis.delete(keys.job("again"), keys.items("again"))
        job = await client.submit("classification", b"seven!!", model=MODEL, job="again")
        assert (await job.result(20)).classes[0].class_id == 7


async def test_news_that_nobody_waits_for_are_few(settings, fake_worker, monkeypatch):
    monkeypatch.setattr(transport, "TOLD", 5)
    async with AsyncClient(settings=settings) as client:
        jobs = await asyncio.gather(*[_submit(client) for _ in range(20)])
        assert {(await job.wait(20)).state for job in jobs} == {JobState.DONE}
        assert len(client._transport.bells._told) <= 5


async def test_replies_that_were_read_leave_the_stream(settings, fake_worker, monkeypatch):
    monkeypatch.setattr(redis_transport, "TRIM_AFTER", 100)
    async with AsyncClient(settings=settings) as client:
        for _ in range(5):
            await asyncio.gather(*[client.classify(b"four", model=MODEL) for _ in range(100)])
        with connect(str(settings.redis_url)) as redis:
            assert 0 < int(redis.xlen(keys.reply(client._transport.client))) < 400
