"""The client's way to the queue in Redis: calls, and one listener for all replies."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from visionpipe.errors import JobConflictError, QueueUnavailableError, VisionPipeError
from visionpipe.queue import (
    Accounts,
    Call,
    QueueStatus,
    RawEnvelope,
    Submitted,
    aconnect,
    arun,
    calls,
    keys,
    news,
    ticket_template,
)
from visionpipe.schemas.jobs import JobRecord, JobState, Lane, WorkerRecord
from visionpipe.schemas.requests import Request
from visionpipe.settings import Settings
from visionpipe.store import check_key, external_store
from visionpipe.transport import Bells

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")
logger = logging.getLogger("visionpipe")

PATIENCE_S = 5.0
"""How long a call waits for a Redis that went away; one that never came is given a fifth of it."""
BLOCK_S = 5.0
"""How long one read of the reply stream blocks; well below the connection's timeout."""
CLOSE_S = 1.0
"""How long closing may wait for Redis."""
TRIM_AFTER = 500
"""Replies that are left in the stream once they are read."""
_ENDED = {state.encode() for state in JobState if state.ended}
CONNECTIONS = 16
"""Calls under way at once; a thousand waiters must not open a thousand connections."""


class RedisTransport:
    """A ``Transport`` over a Redis URL; connects at first use.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        settings: Lifetimes, bounds and the store.

    Raises:
        QueueUnavailableError: The URL cannot be used.
        SettingsError: The settings' store cannot be opened.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.bells = Bells()
        self.client = uuid.uuid4().hex
        self._settings = settings
        self._redis: Redis = aconnect(url)
        self._store = external_store(settings)
        self._gate = asyncio.Semaphore(CONNECTIONS)
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = False

    async def submit(
        self, request: Request, *, job: str, lane: Lane, payloads: Mapping[str, bytes], wait_for_worker: bool
    ) -> Submitted:
        """See ``Transport.submit``; repeated until Redis answers, which the job's id makes safe."""
        if not self._tasks:
            # Importing Celery takes a fifth of a second, once; other coroutines should not feel it.
            await asyncio.to_thread(ticket_template)
            self._start()
        external = self._store is not None and bool(payloads)
        # A job that is there already keeps its pixels, also when this request turns out to be another.
        if external and await self.record(job) is None:
            await self._put_outside(payloads)
        call = calls.submit(
            request,
            job=job,
            lane=lane,
            client=self.client,
            settings=self._settings,
            payloads={} if external else payloads,
            external_store=external,
            wait_for_worker=wait_for_worker,
        )
        was_heard, submitted = self.bells.forget(job), None
        try:
            submitted = await self._call(call)
        except (JobConflictError, QueueUnavailableError):
            # The pixels may belong to a job that was accepted after all.
            raise
        except VisionPipeError:
            await self._drop_outside(job, external)
            raise
        finally:
            if was_heard and not (submitted and submitted.created):
                self.bells.ended(job)
        if submitted.state.ended:
            await self._drop_outside(job, external)
            self.bells.ended(job)
        return submitted

    async def record(self, job: str) -> JobRecord | None:
        """See ``Transport.record``."""
        return await self._call(calls.read(job))

    async def envelope(self, job: str) -> RawEnvelope | None:
        """See ``Transport.envelope``."""
        return await self._call(calls.envelope(job))

    async def cancel(self, job: str) -> JobState | None:
        """See ``Transport.cancel``."""
        return await self._call(calls.cancel(job))

    async def workers(self) -> list[WorkerRecord]:
        """See ``Transport.workers``."""
        return await self._call(calls.workers())

    async def queues(self) -> list[QueueStatus]:
        """See ``Transport.queues``."""
        return await self._call(calls.queues())

    async def accounts(self) -> dict[str, Accounts]:
        """See ``Transport.accounts``."""
        return await self._call(calls.accounts())

    async def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """See ``Transport.put``."""
        check_key(key)
        if self._store is not None:
            await asyncio.to_thread(self._store.put, key, data, ttl_s)
        else:
            await self._command(self._redis.set(keys.stored(key), data, px=max(1, int(ttl_s * 1000))))

    async def get(self, key: str) -> bytes | None:
        """See ``Transport.get``."""
        check_key(key)
        if self._store is not None:
            return await asyncio.to_thread(self._store.get, key)
        data = await self._command(self._redis.get(keys.stored(key)))
        return data if isinstance(data, bytes) else None

    async def aclose(self) -> None:
        """See ``Transport.aclose``."""
        running: Collection[asyncio.Task[None]] = self._tasks
        while running:
            # Again and again: see _cancellable for where a cancellation may be lost.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=0.1)
        if self._tasks:
            await self._forget_replies()
        self._tasks.clear()
        await self._redis.aclose()

    async def _forget_replies(self) -> None:
        from redis.exceptions import RedisError

        # A server that is away for good must not hold up the end; there the stream expires.
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._redis.unlink(keys.reply(self.client))

    async def _call(self, call: Call[T]) -> T:
        give_up = time.monotonic() + (PATIENCE_S if self._connected else PATIENCE_S / 5)
        delay = 0.05
        while True:
            try:
                async with self._gate:
                    answer = await _cancellable(arun(self._redis, call))
            except QueueUnavailableError as error:
                if time.monotonic() + delay > give_up or not _lost_connection(error.__cause__):
                    raise
            else:
                self._connected = True
                return answer
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def _command(self, answer: Awaitable[T]) -> T:
        from redis.exceptions import RedisError

        from visionpipe.queue.call import refusal

        try:
            async with self._gate:
                return await _cancellable(answer)
        except RedisError as error:
            raise refusal(error) from error

    async def _put_outside(self, payloads: Mapping[str, bytes]) -> None:
        assert self._store is not None
        put, ttl_s = self._store.put, self._settings.blob_ttl_s

        async def one(key: str, data: bytes) -> None:
            async with self._gate:
                await asyncio.to_thread(put, key, data, ttl_s)

        await asyncio.gather(*(one(key, data) for key, data in payloads.items()))

    async def _drop_outside(self, job: str, external: bool) -> None:
        if external and self._store is not None:
            await asyncio.to_thread(self._store.delete_job, job)

    def _start(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._listen(), name="vp-replies"),
                asyncio.create_task(self._keep_alive(), name="vp-keep-alive"),
            ]

    async def _listen(self) -> None:
        from redis.exceptions import RedisError

        stream, last, delay, num_read = keys.reply(self.client), b"0-0", 0.05, 0
        while True:
            try:
                if num_read > TRIM_AFTER:
                    num_read = 0
                    await _cancellable(self._redis.xtrim(stream, minid=last))
                answer = await _cancellable(self._redis.xread({stream: last}, count=1000, block=int(BLOCK_S * 1000)))
            except RedisError as error:
                logger.debug("reply stream: %s", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
                # Replies may have been lost with the server: everybody looks for himself.
                self.bells.ring_all()
                continue
            delay = 0.05
            for entry, fields in news(answer):
                last, num_read = entry, num_read + 1
                # Whatever else somebody wrote there must not deafen the listener.
                if fields.get(b"state") in _ENDED and b"job" in fields:
                    self.bells.ended(fields[b"job"].decode(errors="replace"), fields)
            # Asking again takes as long as what is left to do for an answer; it can be done beside the next job.
            await self.bells.rest()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(min(self._settings.blob_ttl_s / 4, 300.0))
            watched = self.bells.watched()
            try:
                if watched and self._store is None:
                    await self._call(calls.touch(list(watched), self._settings))
                elif self._store is not None:
                    await asyncio.to_thread(self._touch_outside, watched)
            except QueueUnavailableError as error:
                logger.warning("pixels of waiting jobs could not be kept alive: %s", error)

    def _touch_outside(self, watched: Mapping[str, int]) -> None:
        assert self._store is not None
        for job, blobs in watched.items():
            for index in range(blobs):
                self._store.touch(f"blob:{job}:{index}", self._settings.blob_ttl_s)


async def _cancellable(work: Awaitable[T]) -> T:
    # redis-py sends through asyncio.wait_for, which before Python 3.12 can swallow a cancellation that comes just as
    # the sending ends; a waiter whose time is over would then wait on for ever.
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    answer = await work
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return answer


def _lost_connection(error: BaseException | None) -> bool:
    from redis.exceptions import ConnectionError as LostError
    from redis.exceptions import TimeoutError as SlowError

    return isinstance(error, (LostError, SlowError))
