"""Streams give one item for every image, in bounded memory."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from visionpipe.errors import InvalidRequestError, NoWorkerError, QueueFullError, UnknownTaskError
from visionpipe.schemas.images import UrlImage
from visionpipe.schemas.jobs import JobState, Lane
from visionpipe.schemas.results import ClassificationResult, ClassScore
from visionpipe.testing import AsyncMemoryClient

MODEL = "lenet-digits"


def length_as_class(image, options):
    return ClassificationResult(classes=[ClassScore(class_id=len(image), label="x", score=1)])


def client_of(handler=length_as_class, **how):
    return AsyncMemoryClient({"classification": handler}, **how)


async def _collect(stream):
    return [item async for item in stream]


@pytest.mark.parametrize("ordered", [True, False])
async def test_every_image_gives_one_item_and_bad_files_do_not_stop_the_stream(tmp_path, ordered):
    sources = [b"x" * (1 + i) for i in range(200)]
    sources[7], sources[150], sources[199] = tmp_path / "none.jpg", b"", tmp_path
    async with client_of() as client:
        items = await _collect(client.map(ClassificationResult, sources, model=MODEL, ordered=ordered, chunk=16))
    if ordered:
        assert [item.index for item in items] == list(range(200))
    by_index = {item.index: item for item in items}
    assert sorted(by_index) == list(range(200))
    bad = {index: item.error.code for index, item in by_index.items() if item.error}
    assert bad == {7: "image_not_found", 150: "invalid_image", 199: "image_not_found"}
    assert by_index[7].name == str(tmp_path / "none.jpg")
    assert all(item.result.top.class_id == index + 1 for index, item in by_index.items() if item.result)


async def test_items_keep_their_files_names(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    async with client_of() as client:
        items = await _collect(client.map("classification", sorted(tmp_path.iterdir()), model=MODEL))
    assert [item.name for item in items] == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]


async def test_jobs_are_chunked_by_number_and_by_bytes_and_go_to_the_bulk_lane():
    async with client_of() as client:
        await _collect(client.map("classification", [b"s"] * 10, model=MODEL, chunk=4))
        assert [len(submission.images) for submission in client.submissions] == [4, 4, 2]
        assert {submission.lane for submission in client.submissions} == {Lane.BULK}
        client.submissions.clear()
        await _collect(client.map("classification", [b"L" * 3_000_000] * 5, model=MODEL))
        assert [len(submission.images) for submission in client.submissions] == [2, 2, 1]


async def test_jobs_grow_where_they_are_answered_at_once_unless_their_size_was_asked_for():
    async with client_of() as client:
        items = await _collect(client.map("classification", (b"s" for _ in range(5000)), model=MODEL))
        sizes = [len(submission.images) for submission in client.submissions]
        assert sizes[0] == 32
        # How far depends on the machine; the rule has tests of its own.
        assert 32 < max(sizes) <= 128
        assert [item.index for item in items] == list(range(5000))
        client.submissions.clear()
        await _collect(client.map("classification", (b"s" for _ in range(5000)), model=MODEL, chunk=32))
        assert {len(submission.images) for submission in client.submissions} == {32, 5000 % 32}


@pytest.mark.parametrize("ordered", [True, False])
async def test_the_window_bounds_what_is_under_way_and_what_is_read_ahead(ordered):
    read = 0

    def images():
        nonlocal read
        for _ in range(60):
            read += 1
            yield b"x"

    async with client_of() as client:
        seen, ahead = 0, 0
        async for _ in client.map("classification", images(), model=MODEL, window=3, chunk=2, ordered=ordered):
            seen += 1
            await asyncio.sleep(0.003)
            ahead = max(ahead, read - seen)
    assert seen == 60
    assert ahead <= (3 + 1) * 2


async def test_large_images_are_bounded_by_bytes():
    async with client_of(latency_s=0.5) as client:
        peak = 0

        def images():
            nonlocal peak
            for _ in range(12):
                under_way = sum(len(data) for data in client.memory._stored.values())
                peak = max(peak, under_way)
                yield b"x" * 10_000_000

        items = await _collect(client.map("classification", images(), model=MODEL, window=100))
    assert len(items) == 12
    assert 20_000_000 < peak <= 64 * 2**20


async def test_items_come_as_they_are_ready_when_order_does_not_matter():
    async with client_of() as client:
        first_is_slow = client.memory._work

        async def work(memory, request):
            await asyncio.sleep(0.3 if len(request.images[0].data) == 1 else 0)
            await first_is_slow(memory, request)

        client.memory._work = work
        items = await _collect(client.map("classification", [b"1", b"22", b"333"], model=MODEL, chunk=1, ordered=False))
    assert [item.index for item in items] == [1, 2, 0]


async def test_a_slow_source_does_not_hold_back_what_it_gave():
    answered = threading.Event()

    def slow():
        yield b"x"
        time.sleep(0.25)
        yield b"x"
        yield b"in time" if answered.wait(20) else b""

    async with client_of() as client:
        stream = client.map("classification", slow(), model=MODEL)
        first = await anext(stream)
        answered.set()
        sizes = [item.result.top.class_id for item in [first, *await _collect(stream)]]
    assert sizes == [1, 1, 7]


async def test_an_async_source_is_streamed_in_chunks_too():
    async def images():
        for i in range(100):
            await asyncio.sleep(0)
            yield b"x" * (1 + i)

    async with client_of() as client:
        items = await _collect(client.map(ClassificationResult, images(), model=MODEL, chunk=10))
        assert [item.result.top.class_id for item in items] == list(range(1, 101))
        assert 10 <= len(client.submissions) < 40


async def test_an_async_source_that_breaks_or_is_left_ends_cleanly():
    closed = []

    async def images():
        try:
            for _ in range(3):
                yield b"x"
            raise RuntimeError("camera unplugged")
        finally:
            closed.append(True)

    async with client_of() as client:
        with pytest.raises(RuntimeError, match="camera unplugged"):
            await _collect(client.map("classification", images(), model=MODEL, chunk=1))
        stream = client.map("classification", images(), model=MODEL, chunk=1)
        await anext(stream)
        await stream.aclose()
        assert closed
        assert len(asyncio.all_tasks()) == 1


async def test_a_full_queue_slows_the_stream_and_nothing_is_lost():
    async with client_of() as client:
        client.fail_next(*[QueueFullError("full", retry_after_s=0.02)] * 3)
        items = await _collect(client.map("classification", [b"a", b"b"], model=MODEL, chunk=1))
    assert [item.index for item in items] == [0, 1]


async def test_without_workers_the_stream_ends_with_the_reason():
    async with client_of() as client:
        client.fail_next(NoWorkerError("nobody"))
        with pytest.raises(NoWorkerError):
            await _collect(client.map("classification", [b"a"] * 100, model=MODEL, chunk=1))
        assert len(asyncio.all_tasks()) == 1


async def test_leaving_early_cancels_what_is_under_way_and_leaves_no_task():
    async with client_of(latency_s=0.2) as client:
        stream = client.map("classification", (b"x" for _ in range(1000)), model=MODEL, chunk=1, window=4)
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await stream.aclose()
        states = {memory.record.state for memory in client.memory._jobs.values()}
        assert states == {JobState.CANCELLED}
        assert len(asyncio.all_tasks()) == 1
        assert len(client.memory.bells) == 0


async def test_an_error_of_the_source_itself_ends_the_stream():
    def broken():
        yield b"a"
        raise RuntimeError("camera unplugged")

    async with client_of() as client:
        with pytest.raises(RuntimeError, match="camera unplugged"):
            await _collect(client.map("classification", broken(), model=MODEL))
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("ordered", [True, False])
async def test_what_a_source_gave_before_it_broke_has_its_items(ordered):
    def broken():
        yield from [b"x"] * 23
        raise RuntimeError("camera unplugged")

    items = []

    async def collect(stream):
        async for item in stream:
            items.append(item)  # noqa: PERF401 - the error must not lose them

    async with client_of(latency_s=0.2) as client:
        with pytest.raises(RuntimeError, match="camera unplugged"):
            await collect(client.map("classification", broken(), model=MODEL, chunk=10, ordered=ordered))
        assert len(items) == 23
        assert len(asyncio.all_tasks()) == 1


async def test_a_job_that_ends_without_outcomes_still_gives_an_item_for_each_image():
    async with client_of(latency_s=30) as client:
        stream = client.map("classification", [b"a", b"b"], model=MODEL)
        waiting = asyncio.create_task(_collect(stream))
        await asyncio.sleep(0.1)
        await client.job(client.submissions[0].job).cancel()
        items = await waiting
    assert [(item.index, item.error.code) for item in items] == [(0, "cancelled"), (1, "cancelled")]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"images": b"one"}, InvalidRequestError),
        ({"images": 12}, InvalidRequestError),
        ({"images": [b"x"], "chunk": 0}, InvalidRequestError),
        ({"images": [b"x"], "window": 0}, InvalidRequestError),
        ({"images": [b"x"], "options": {"top_k": "many"}}, InvalidRequestError),
        ({"images": [b"x"], "task": "telepathy"}, UnknownTaskError),
    ],
)
async def test_wrong_arguments_are_refused(arguments, error):
    async with client_of() as client:
        with pytest.raises(error):
            await _collect(client.map(**{"task": "classification", "model": MODEL, **arguments}))


def test_a_loop_that_ends_closes_a_stream_that_somebody_kept_without_a_word():
    complaints = []

    async def work():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with client_of(latency_s=0.01) as client:
            kept = client.map("classification", (b"x" for _ in range(1000)), model=MODEL)
            async for _ in kept:
                raise KeyError("mine")

    with pytest.raises(KeyError):
        asyncio.run(work())
    assert complaints == []


async def test_an_empty_stream_is_empty_and_sends_nothing():
    async with client_of() as client:
        assert await _collect(client.map("classification", [], model=MODEL)) == []
        assert client.submissions == []


async def test_what_the_memory_client_cannot_read_is_an_item_with_an_error():
    async with client_of() as client:
        items = await _collect(
            client.map("classification", [UrlImage(url="http://a.example/x", name="u")], model=MODEL)
        )
    assert items[0].error is not None
    assert (items[0].name, items[0].error.code) == ("u", "image_not_found")
