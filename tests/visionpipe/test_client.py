"""The blocking face: threads, forks, running loops, and the same answers as the asyncio client."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import queue
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from visionpipe.aclient import AsyncClient
from visionpipe.client import Client
from visionpipe.errors import ImageNotFoundError, InvalidRequestError, ResultTimeoutError
from visionpipe.jobs import AsyncJob, Job
from visionpipe.portal import Portal
from visionpipe.schemas.jobs import JobState
from visionpipe.schemas.results import ClassificationResult, ClassScore
from visionpipe.testing import MemoryClient

MODEL = "lenet-digits"


def length_as_class(image, options):
    return ClassificationResult(classes=[ClassScore(class_id=len(image), label="x", score=1)])


@pytest.fixture
def client(settings, fake_worker):
    with Client(settings=settings) as client:
        yield client


def test_a_whole_round_through_a_real_redis(client, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"abc")
    assert client.classify(tmp_path / "a.jpg").top.class_id == 3
    job = client.submit(ClassificationResult, [b"1", b"22"], model=MODEL)
    assert [result.top.class_id for result in job.results(5)] == [1, 2]
    assert repr(job) == f"<Job {job.id}: classification by lenet-digits, done 2/2>"
    assert (job.state(), job.progress().done, job.record().total) == (JobState.DONE, 2, 2)
    assert job.envelope() == job.wait(1) == client.job(job.id).wait(1)
    assert job.cancel() is JobState.DONE
    assert client.accounts()[MODEL].done == 3
    assert [worker.worker for worker in client.workers()] == ["fake-1"]
    assert client.queues()
    assert client.classify(client.upload(b"x" * 9000)).top.class_id == 9000


def test_ctrl_c_ends_a_stream_as_itself_and_cancels_what_is_under_way():
    with MemoryClient({"classification": length_as_class}, latency_s=30) as client:
        items = client.map("classification", (b"x" for _ in range(100)), model=MODEL, chunk=10)
        interrupt = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            next(items)
        interrupt.join()
        accounts = client.accounts()[MODEL]
        assert accounts.cancelled == accounts.submitted > 0


def test_a_source_that_blocks_holds_up_neither_leaving_nor_closing():
    source: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    source.put(b"x")
    with MemoryClient({"classification": length_as_class}) as client:
        items = client.map("classification", iter(source.get, None), model=MODEL, chunk=1)
        assert next(items).ok
        items.close()
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    source.put(None)


def test_a_stream_is_an_ordinary_iterator_that_can_be_left(client, fake_worker):
    items = client.map(ClassificationResult, (b"x" * (1 + i) for i in range(100)), model=MODEL, chunk=4)
    assert [next(items).index for _ in range(5)] == [0, 1, 2, 3, 4]
    items.close()
    assert [item.ok for item in client.map("classification", [b"1", "/no/such", b"3"], model=MODEL)] == [
        True,
        False,
        True,
    ]


def test_many_threads_share_one_client(client):
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda i: client.classify(b"x" * (1 + i)).top.class_id, range(200)))
    assert results == [1 + i for i in range(200)]


async def test_it_works_where_a_loop_is_running_already(client):
    assert client.classify(b"four").top.class_id == 4


def test_a_stream_with_wrong_arguments_is_refused_at_once(client):
    with pytest.raises(InvalidRequestError, match="window"):
        client.map("classification", [b"x"], model=MODEL, window=0)


def test_errors_keep_their_type_through_the_thread(client):
    with pytest.raises(ImageNotFoundError):
        client.classify("/no/such.jpg")


def test_a_closed_client_says_so_and_leaves_no_thread(settings):
    before = threading.active_count()
    client = Client(settings=settings)
    client.workers()
    job = client.job("x")
    client.close()
    client.close()
    for ask in (client.workers, job.state, lambda: next(client.map("classification", [b"x"], model=MODEL))):
        with pytest.raises(InvalidRequestError, match="closed"):
            ask()
    assert threading.active_count() <= before


def test_a_stream_ends_with_its_client():
    client = MemoryClient({"classification": length_as_class})
    items = client.map("classification", [b"x"] * 100, model=MODEL)
    assert next(items).ok
    client.close()
    with pytest.raises(InvalidRequestError, match="closed"):
        next(items)


def test_a_forgotten_client_is_collected_with_its_thread():
    before = threading.active_count()
    client = MemoryClient({"classification": length_as_class})
    client.classify(b"x")
    del client
    gc.collect()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_is_told_to_make_its_own_client():
    with MemoryClient({"classification": length_as_class}) as client:
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                client.workers()
            except InvalidRequestError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert b"before a fork" in os.read(reader, 1000)
        assert client.classify(b"four").top.class_id == 4
        os.close(reader)
        os.close(writer)


def test_closing_from_another_thread_ends_a_call_under_way():
    client = MemoryClient({"classification": length_as_class}, latency_s=30)
    job = client.submit("classification", b"x", model=MODEL)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            job.wait()
        except InvalidRequestError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    client.close()
    thread.join(5)
    assert "closed while" in str(caught[0])


def test_a_call_that_the_loop_never_hears_of_is_told(monkeypatch):
    monkeypatch.setattr("visionpipe.portal.LOOK_S", 0.05)
    portal = Portal()
    portal._loop.call_soon_threadsafe(portal._loop.stop)
    portal._thread.join(5)

    async def work() -> None:
        raise AssertionError("nobody runs it")

    coroutine = work()
    with pytest.raises(InvalidRequestError, match="closed while"):
        portal.run(coroutine)
    coroutine.close()
    portal._loop.close()


def test_a_call_whose_loop_is_closed_at_that_moment_is_refused(monkeypatch):
    portal = Portal()
    monkeypatch.setattr(portal, "_check", portal.close)

    async def work() -> None:
        raise AssertionError("nobody runs it")

    with pytest.raises(InvalidRequestError, match="is closed"):
        portal.run(work())


def test_a_timeout_of_the_call_itself_is_its_own(monkeypatch):
    monkeypatch.setattr("visionpipe.portal.LOOK_S", 0.05)
    portal = Portal()

    async def work() -> None:
        await asyncio.sleep(0.2)
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        portal.run(work())
    portal.close()


def test_the_blocking_client_refuses_to_wait_for_itself():
    with MemoryClient({"classification": length_as_class}) as client:

        async def inside() -> None:
            client.workers()

        with pytest.raises(InvalidRequestError, match="use AsyncClient"):
            client._portal.run(inside())


def test_a_timeout_is_told_in_the_callers_thread():
    with MemoryClient({"classification": length_as_class}, latency_s=30) as client:
        begun = time.monotonic()
        with pytest.raises(ResultTimeoutError):
            client.classify(b"x", timeout=0.1)
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize(("blocking", "awaited"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_both_faces_have_the_same_methods_with_the_same_parameters(blocking, awaited):
    def public(cls: type) -> dict[str, list[str]]:
        return {
            name.removeprefix("a") if name == "aclose" else name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert public(blocking) == public(awaited)


def test_using_the_asyncio_client_from_a_second_loop_is_refused(settings):
    client = AsyncClient(settings=settings)

    async def use(last: bool) -> None:
        try:
            await client.workers()
        finally:
            if not last:
                await client._transport._redis.aclose()

    asyncio.run(use(last=False))
    with pytest.raises(InvalidRequestError, match="event loop"):
        asyncio.run(use(last=True))
