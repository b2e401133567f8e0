"""What a client needs of a queue, and the bells that wake its waiters."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from visionpipe.queue import Accounts, QueueStatus, RawEnvelope, Submitted
from visionpipe.schemas.jobs import JobRecord, JobState, Lane, WorkerRecord
from visionpipe.schemas.requests import Request

REMEMBERED = 10_000
"""Jobs whose end was heard before anybody waited for them."""
TOLD = 200
"""Of so many, the last, the news themselves are kept."""
REST_S = 0.05
"""For how long replies are not asked for at most while nobody waits for one."""

T = TypeVar("T")
News = Mapping[bytes, bytes]
"""One entry of the reply stream."""


@dataclass(eq=False)
class Bell:
    """Rung when a job may have ended; belongs to one waiter."""

    blobs: int = 0
    """How many blobs the job has, as far as the waiter knows."""
    told: News = field(default_factory=dict)
    """The news of the end; some hold the whole answer, see ``told_envelope``."""
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        """Wake the waiter."""
        self._event.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next ring; False when there was none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Bells:
    """All waiters of one client, by job; used in one event loop only."""

    def __init__(self) -> None:
        self._bells: dict[str, list[Bell]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._told: OrderedDict[str, News] = OrderedDict()
        self._any = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(bells) for bells in self._bells.values())

    @contextmanager
    def watch(self, job: str, *, blobs: int = 0) -> Iterator[Bell]:
        """Hang up a bell for a job; one whose end was heard earlier rings at once."""
        bell = Bell(blobs)
        self._bells.setdefault(job, []).append(bell)
        self._any.set()
        if job in self._ended:
            bell.told = self._told.get(job, {})
            bell.ring()
        try:
            yield bell
        finally:
            self._bells[job].remove(bell)
            if not self._bells[job]:
                del self._bells[job]
            if not self._bells:
                self._any.clear()

    async def rest(self) -> None:
        """Let those go first who were rung for, then wait for a while until somebody waits."""
        await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                await self._any.wait()

    def ended(self, job: str, told: News | None = None) -> None:
        """Ring for a job that ended, now or when somebody comes to wait for it.

        Args:
            job: The job.
            told: The news of it, as they came.
        """
        # The reply often overtakes the answer to submit, when nobody can wait for the job yet.
        _remember(self._ended, job, None, REMEMBERED)
        waiting = self._bells.get(job, ())
        if told and not waiting:
            _remember(self._told, job, told, TOLD)
        for bell in waiting:
            bell.told = told or {}
            bell.ring()

    def forget(self, job: str) -> bool:
        """Forget an end that was heard earlier, for the id is about to be used again; says whether there was one."""
        self._told.pop(job, None)
        return self._ended.pop(job, self) is None

    def ring_all(self) -> None:
        """Wake everybody: news may have been missed."""
        for bells in self._bells.values():
            for bell in bells:
                bell.ring()

    def watched(self) -> dict[str, int]:
        """The jobs somebody waits for, with the number of their blobs."""
        return {job: max(bell.blobs for bell in bells) for job, bells in self._bells.items()}


def _remember(found: OrderedDict[str, T], job: str, value: T, most: int) -> None:
    found[job] = value
    while len(found) > most:
        found.popitem(last=False)


class Transport(Protocol):
    """A queue and a store, as a client sees them; used in one event loop only."""

    bells: Bells
    """Rung for every job that this transport submitted."""

    async def submit(
        self, request: Request, *, job: str, lane: Lane, payloads: Mapping[str, bytes], wait_for_worker: bool
    ) -> Submitted:
        """Accept a job with its pixels; see ``visionpipe.queue.calls.submit``."""

    async def record(self, job: str) -> JobRecord | None:
        """Read a job's record."""

    async def envelope(self, job: str) -> RawEnvelope | None:
        """Read a job's record and items."""

    async def cancel(self, job: str) -> JobState | None:
        """Ask a job to stop."""

    async def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """Write an upload."""

    async def get(self, key: str) -> bytes | None:
        """Read an upload or artifact."""

    async def workers(self) -> list[WorkerRecord]:
        """Read the live workers' announcements."""

    async def queues(self) -> list[QueueStatus]:
        """Read the depth of every lane."""

    async def accounts(self) -> dict[str, Accounts]:
        """Read how many items were submitted to each model and how they ended."""

    async def aclose(self) -> None:
        """Let go of connections and tasks."""
