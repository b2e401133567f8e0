"""Streams of images through jobs: chunked, in a bounded window, one item out for every image in."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from visionpipe.errors import ImageError, InvalidRequestError
from visionpipe.patience import Patience, Send
from visionpipe.schemas.jobs import Item
from visionpipe.schemas.results import Result
from visionpipe.sources import ImageSource, ImageStream, Prepared, is_single, readable
from visionpipe.windows import Cut, Window
from visionpipe.wire import error_info

ResultT = TypeVar("ResultT", bound=Result)
T = TypeVar("T")

LINGER_S = 0.2
"""A chunk that a slow source has not filled by then goes as it is."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that cannot be sent."""

    name: str | None
    error: ImageError


Outcome: TypeAlias = Prepared | Unreadable
Read = Callable[[ImageSource], Prepared]


class Flow(Generic[ResultT]):
    """One stream of images on its way: those read, those in jobs, and those ready to be handed out.

    Args:
        images: What to read.
        reader: Gives, before each chunk, the function that makes one image ready.
        send: Submits one chunk.
        ordered: Whether items keep the order of the images.
        window: How much may be under way.
    """

    def __init__(
        self,
        images: ImageStream,
        reader: Callable[[], Awaitable[Read]],
        send: Send[ResultT],
        *,
        ordered: bool,
        window: Window,
    ) -> None:
        self._cut = Cut(window)
        self._chunks = _chunks(images, reader, self._cut)
        self._send = send
        self._ordered = ordered
        self._window = window
        self._patience = Patience()
        self._producer: asyncio.Task[None] | None = None
        self._ready: asyncio.Queue[asyncio.Task[list[Item[ResultT]]] | None] = asyncio.Queue()
        self._under_way: dict[asyncio.Task[list[Item[ResultT]]], int] = {}
        self._given: asyncio.Task[list[Item[ResultT]]] | None = None
        self._freed = asyncio.Event()

    async def next(self) -> list[Item[ResultT]]:
        """Give the items of the next chunk, one per image; none at the end."""
        if self._producer is None:
            self._cut.begin(time.monotonic())
            self._producer = asyncio.create_task(self._produce(), name="vp-map")
            # None ends the stream, also when the producer fails: awaiting it then raises why.
            self._producer.add_done_callback(lambda _: self._ready.put_nowait(None))
        if self._given is not None:
            # Whoever asks for more has seen to what was given before.
            del self._under_way[self._given]
            self._freed.set()
            self._cut.learn(len(self._given.result()), time.monotonic())
            self._given = None
        chunk = await self._ready.get()
        if chunk is None:
            await self._producer
            return []
        items = await chunk
        self._given = chunk
        return items

    async def close(self) -> None:
        """Cancel what is under way."""
        if self._producer is None:
            return
        self._producer.cancel()
        for chunk in self._under_way:
            chunk.cancel()
        await asyncio.gather(self._producer, *self._under_way, return_exceptions=True)

    async def _produce(self) -> None:
        start = 0
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    await self._begin(chunk, start)
                    start += len(chunk)
        finally:
            # Also when the source fails: what it gave before has its items. Leaving the stream ends these tasks.
            if not self._ordered:
                while any(not task.done() for task in self._under_way):
                    await asyncio.wait(self._under_way)

    async def _begin(self, chunk: list[Outcome], start: int) -> None:
        size = sum(len(image.data) for image in chunk if isinstance(image, Prepared))
        await self._room(size)
        task = asyncio.create_task(_run(chunk, start, self._send, self._patience))
        self._under_way[task] = size
        if self._ordered:
            self._ready.put_nowait(task)
        else:
            task.add_done_callback(self._ready.put_nowait)

    async def _room(self, size: int) -> None:
        # What is larger than the whole budget goes alone: it would otherwise wait for ever.
        while self._under_way and (
            len(self._under_way) >= self._window.jobs or sum(self._under_way.values()) + size > self._window.total_bytes
        ):
            self._freed.clear()
            await self._freed.wait()


# Each of the two walks by itself: of two generators, one inside the other, a loop that ends closes both at once.


async def lists(flow: Flow[ResultT]) -> AsyncGenerator[list[Item[ResultT]], None]:
    """Yield the items of one chunk after the other."""
    try:
        while items := await flow.next():
            yield items
    finally:
        await flow.close()


async def items(flow: Flow[ResultT]) -> AsyncGenerator[Item[ResultT], None]:
    """Yield one item after the other."""
    try:
        while chunk := await flow.next():
            for item in chunk:
                yield item
    finally:
        await flow.close()


async def _run(chunk: Sequence[Outcome], start: int, send: Send[ResultT], patience: Patience) -> list[Item[ResultT]]:
    items: dict[int, Item[ResultT]] = {}
    good: list[int] = []
    for position, image in enumerate(chunk):
        if isinstance(image, Unreadable):
            items[position] = Item(index=start + position, name=image.name, error=error_info(image.error))
        else:
            good.append(position)
    if good:
        images = [image for image in chunk if isinstance(image, Prepared)]
        for position, item in zip(good, await patience.answers(send, images), strict=True):
            items[position] = item.model_copy(
                update={"index": start + position, "name": item.name or chunk[position].name}
            )
    return [items[position] for position in range(len(chunk))]


async def _chunks(
    images: ImageStream, reader: Callable[[], Awaitable[Read]], cut: Cut
) -> AsyncGenerator[list[Outcome], None]:
    if is_single(images):
        raise InvalidRequestError("expected a collection of images, got one image; put it into a list")
    if isinstance(images, AsyncIterable):
        async with aclosing(_batches(images, cut.window.first_chunk)) as batches:
            async for batch in batches:
                async with aclosing(_cut_up(iter(batch), reader, cut)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        return
    async with aclosing(_cut_up(iter(images), reader, cut)) as chunks:
        async for chunk in chunks:
            yield chunk


async def _cut_up(
    source: Iterator[ImageSource], reader: Callable[[], Awaitable[Read]], cut: Cut
) -> AsyncGenerator[list[Outcome], None]:
    while True:
        chunk, broken = await _apart(_fill, source, await reader(), cut)
        if chunk:
            yield chunk
        if broken is not None:
            raise broken
        if not chunk:
            return


async def _apart(work: Callable[..., T], *args: object) -> T:
    """As ``asyncio.to_thread``, but neither loop nor process waits for the thread when it ends: a source may block."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def fulfil() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 - whatever a caller's iterable raises is the caller's
            future.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(fulfil,), name="vp-read", daemon=True).start()
    return await asyncio.wrap_future(future)


async def _batches(images: AsyncIterable[ImageSource], limit: int) -> AsyncGenerator[list[ImageSource], None]:
    """Take what an async source gave while the last batch was sent, at most ``limit`` images at once."""
    given: asyncio.Queue[ImageSource | None] = asyncio.Queue()
    room = asyncio.Semaphore(limit)

    async def feed() -> None:
        async with _closing(images):
            # A place is taken before an image is asked for, so that no more than the limit are ever held.
            await room.acquire()
            async for image in images:
                given.put_nowait(image)
                await room.acquire()

    feeder = asyncio.create_task(feed(), name="vp-feed")
    feeder.add_done_callback(lambda _: given.put_nowait(None))
    try:
        while (image := await given.get()) is not None:
            batch = [image]
            while len(batch) < limit and not given.empty() and (image := given.get_nowait()) is not None:
                batch.append(image)
            for _ in batch:
                room.release()
            yield batch
            if image is None:
                break
        await feeder
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


@asynccontextmanager
async def _closing(images: AsyncIterable[ImageSource]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if isinstance(images, AsyncGenerator):
            await images.aclose()


def _fill(source: Iterator[ImageSource], read: Read, cut: Cut) -> tuple[list[Outcome], Exception | None]:
    """Take the next images, and what a source that broke then raised: what it gave before counts."""
    chunk: list[Outcome] = []
    size, linger_until = 0, time.monotonic() + LINGER_S
    try:
        for image in source:
            try:
                ready = read(image)
            except ImageError as error:
                chunk.append(Unreadable(readable(image) if isinstance(image, (str, os.PathLike)) else None, error))
            else:
                chunk.append(ready)
                size += len(ready.data)
            if len(chunk) >= cut.size or size >= cut.window.chunk_bytes or time.monotonic() > linger_until:
                break
    except Exception as error:  # noqa: BLE001 - whatever a caller's iterable raises is the caller's
        return chunk, error
    return chunk, None
