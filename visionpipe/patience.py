"""What one chunk of a stream bears until it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeAlias, TypeVar

from visionpipe.envelopes import outcomes
from visionpipe.errors import (
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
    ResultTimeoutError,
    UnknownJobError,
    VisionPipeError,
)
from visionpipe.jobs import OUTAGE_S, AsyncJob
from visionpipe.schemas.jobs import Item
from visionpipe.schemas.results import Result
from visionpipe.sources import Prepared

ResultT = TypeVar("ResultT", bound=Result)
Send: TypeAlias = Callable[[Sequence[Prepared]], Awaitable[AsyncJob[ResultT]]]

AWAY_S = 90.0
"""How long a stream that has begun bears that Redis, or every worker, is away."""
AGAIN_S = 0.5
"""How long it waits before it tries again."""
MAX_LOST = 3
"""How often the jobs of one chunk may vanish from Redis."""
CANCEL_S = 5.0
"""How long leaving a stream may take to cancel one job."""


class Patience:
    """Bears what passes: a full queue; once a job was accepted, also a Redis or workers that went away."""

    def __init__(self) -> None:
        self._begun = False
        self._away_since: float | None = None

    async def answers(self, send: Send[ResultT], images: Sequence[Prepared]) -> list[Item[ResultT]]:
        """Have one chunk answered."""
        lost = 0
        while True:
            job = await self._accepted(send, images)
            try:
                return await self._answered(job)
            except UnknownJobError:
                # Redis came back empty. Results that expire before they can be read would look the same for ever.
                lost += 1
                if lost > MAX_LOST:
                    raise

    async def _answered(self, job: AsyncJob[ResultT]) -> list[Item[ResultT]]:
        left_s: float | None = None
        while True:
            try:
                answers = await _outcomes(job, left_s)
            except ResultTimeoutError:
                # Redis is back, and the job takes as long as it takes.
                left_s = self._away_since = None
            except QueueUnavailableError:
                now_s = time.monotonic()
                self._away_since = self._away_since or now_s - OUTAGE_S
                left_s = self._away_since + AWAY_S - now_s
                if left_s <= 0:
                    raise
            else:
                self._away_since = None
                return answers

    async def _accepted(self, send: Send[ResultT], images: Sequence[Prepared]) -> AsyncJob[ResultT]:
        while True:
            try:
                job = await send(images)
            except QueueFullError as error:
                self._away_since = None
                pause = error.details.get("retry_after_s", 1.0)
            except (QueueUnavailableError, NoWorkerError):
                self._away_since = self._away_since or time.monotonic()
                if not self._begun or time.monotonic() - self._away_since > AWAY_S:
                    raise
                pause = AGAIN_S
            else:
                self._begun, self._away_since = True, None
                return job
            await asyncio.sleep(pause)


async def _outcomes(job: AsyncJob[ResultT], timeout: float | None) -> list[Item[ResultT]]:
    try:
        return outcomes(await job.wait(timeout))
    except asyncio.CancelledError:
        # Nobody will read the answers any more; the device has better things to do.
        with suppress(VisionPipeError, TimeoutError):
            async with asyncio.timeout(CANCEL_S):
                await job.cancel()
        raise
