"""A job as its submitter sees it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from visionpipe.envelopes import parse, unwrap
from visionpipe.errors import InvalidRequestError, QueueUnavailableError, ResultTimeoutError, UnknownJobError
from visionpipe.queue import told_envelope
from visionpipe.schemas.jobs import Envelope, JobRecord, JobState, Progress
from visionpipe.schemas.results import Result
from visionpipe.schemas.results.source import Fetch

if TYPE_CHECKING:
    from visionpipe.portal import Portal
    from visionpipe.queue import RawEnvelope
    from visionpipe.transport import Bell, Transport

ResultT = TypeVar("ResultT", bound=Result)

RECHECK_S = 5.0
"""How often a waiter reads the record although no reply came."""
FIRST_POLL_S, LAST_POLL_S = 0.02, 1.0
"""How often it reads the record of a job whose replies go to another client."""
FRESH_S = 1.0
"""A job submitted so lately is not read before a reply came."""
OUTAGE_S = 60.0
"""How long a waiter without a timeout of its own bears a Redis that is away."""


class AsyncJob(Generic[ResultT]):
    """One job, from asyncio; made by ``AsyncClient.submit`` and ``AsyncClient.job``."""

    def __init__(
        self, transport: Transport, job: str, *, heard: bool = False, blobs: int = 0, fetch: Fetch | None = None
    ) -> None:
        self.id = job
        """The job's id; ``client.job(id)`` finds it again from anywhere."""
        self._transport = transport
        self._heard = heard
        self._blobs = blobs
        self._fetch = fetch
        self._made = time.monotonic()
        self._seen: JobRecord | None = None

    def __repr__(self) -> str:
        seen = self._seen
        if seen is None:
            return f"<{type(self).__name__} {self.id}>"
        return (
            f"<{type(self).__name__} {self.id}: {seen.task} by {seen.model}, {seen.state} {seen.finished}/{seen.total}>"
        )

    async def record(self) -> JobRecord:
        """Read what is known of the job.

        Raises:
            UnknownJobError: There is no such job, or not any more.
        """
        record = await self._transport.record(self.id)
        if record is None:
            raise self._unknown()
        self._seen = record
        return record

    async def state(self) -> JobState:
        """Read where the job is."""
        return (await self.record()).state

    async def progress(self) -> Progress:
        """Read how far the job is: what its worker last said, else how many items are finished."""
        record = await self.record()
        return record.progress or Progress(done=record.finished, total=record.total)

    async def envelope(self) -> Envelope[ResultT]:
        """Read what there is by now, without waiting."""
        return self.read(await self._raw())

    def read(self, raw: RawEnvelope) -> Envelope[ResultT]:
        """Make typed results of what ``wait_raw`` gave."""
        envelope: Envelope[ResultT] = parse(raw)
        for item in envelope.items:
            if self._fetch is not None and item.result is not None:
                item.result.bind(self._fetch)
        return envelope

    async def wait(self, timeout: float | None = None) -> Envelope[ResultT]:
        """Wait until the job has ended, well or badly, and read everything it ended with.

        Args:
            timeout: Seconds; unset waits for as long as it takes.

        Raises:
            ResultTimeoutError: It has not ended yet; it goes on.
            UnknownJobError: There is no such job, or not any more.
            QueueUnavailableError: Redis was away when the time was over, or for a minute without a timeout.
        """
        return self.read(await self.wait_raw(timeout))

    async def wait_raw(self, timeout: float | None = None) -> RawEnvelope:
        """As ``wait``, but with items as the worker wrote them, for whoever passes them on by the thousand."""
        outages = _Outages()
        if timeout is not None and timeout <= 0:
            raw = await self._raw()
            if raw.record.state.ended:
                return raw
            raise self._late(0)
        try:
            async with asyncio.timeout(timeout):
                return await self._ended(outages)
        except TimeoutError as error:
            raise outages.last or self._late(timeout or 0) from error

    async def result(self, timeout: float | None = None) -> ResultT:
        """Wait for the one result of a job of one image.

        Raises:
            InvalidRequestError: The job has several images; use ``results`` or ``wait``.
            VisionPipeError: Why there is no result; otherwise as ``wait``.
        """
        envelope = await self.wait(timeout)
        if envelope.total != 1:
            raise InvalidRequestError(f"Job {self.id} has {envelope.total} images: use results() or wait().")
        return unwrap(envelope)[0]

    async def results(self, timeout: float | None = None) -> list[ResultT]:
        """Wait for all results, in the order of the images.

        Raises:
            VisionPipeError: Why the first image without a result has none; otherwise as ``wait``, which gives the
                results of the others too.
        """
        return unwrap(await self.wait(timeout))

    async def cancel(self) -> JobState:
        """Ask the job to stop: a queued one ends at once, a running one within seconds; an ended one stays as it is."""
        state = await self._transport.cancel(self.id)
        if state is None:
            raise self._unknown()
        return state

    async def _raw(self) -> RawEnvelope:
        raw = await self._transport.envelope(self.id)
        if raw is None:
            raise self._unknown()
        self._seen = raw.record
        return raw

    async def _ended(self, outages: _Outages) -> RawEnvelope:
        with self._transport.bells.watch(self.id, blobs=self._blobs) as bell:
            poll = FIRST_POLL_S
            # Whoever has just submitted hears of the end sooner than a read could tell.
            rung = await bell.wait(RECHECK_S) if self._heard and time.monotonic() - self._made < FRESH_S else False
            while True:
                try:
                    # A ring nearly always means the end: one round trip then reads everything.
                    if rung or (await self.record()).state.ended:
                        raw = self._told(bell) or await self._raw()
                        if raw.record.state.ended:
                            return raw
                except QueueUnavailableError as error:
                    outages.note(error)
                else:
                    outages.over()
                # A job's replies go to whoever submitted it; anybody else has to look.
                rung = await bell.wait(RECHECK_S if self._heard else poll)
                poll = min(poll * 1.5, LAST_POLL_S)

    def _told(self, bell: Bell) -> RawEnvelope | None:
        # Others may have used the id for another job since; whoever has submitted it means the one that was told of.
        raw = told_envelope(self.id, bell.told) if self._heard else None
        if raw is not None:
            self._seen = raw.record
        return raw

    def _unknown(self) -> UnknownJobError:
        return UnknownJobError(
            f"No job has the id {self.id!r}: it never existed, or its record has outlived its time.", job=self.id
        )

    def _late(self, timeout: float) -> ResultTimeoutError:
        seen = self._seen
        where = f" (last seen {seen.state}, {seen.finished}/{seen.total} items)" if seen else ""
        return ResultTimeoutError(
            f"Job {self.id} has not ended within {timeout:g} s{where}. "
            f"It goes on: wait again, fetch it later with client.job({self.id!r}), or cancel it.",
            job=self.id,
        )


class Job(Generic[ResultT]):
    """One job, for blocking code; made by ``Client.submit`` and ``Client.job``. Every method does as ``AsyncJob``'s."""

    def __init__(self, portal: Portal, job: AsyncJob[ResultT]) -> None:
        self.id = job.id
        """The job's id; ``client.job(id)`` finds it again from anywhere."""
        self._portal = portal
        self._job = job

    def __repr__(self) -> str:
        return repr(self._job).replace("<AsyncJob", "<Job")

    def record(self) -> JobRecord:
        """See ``AsyncJob.record``."""
        return self._portal.run(self._job.record())

    def state(self) -> JobState:
        """See ``AsyncJob.state``."""
        return self._portal.run(self._job.state())

    def progress(self) -> Progress:
        """See ``AsyncJob.progress``."""
        return self._portal.run(self._job.progress())

    def envelope(self) -> Envelope[ResultT]:
        """See ``AsyncJob.envelope``."""
        return self._portal.run(self._job.envelope())

    def wait(self, timeout: float | None = None) -> Envelope[ResultT]:
        """See ``AsyncJob.wait``."""
        return self._portal.run(self._job.wait(timeout))

    def wait_raw(self, timeout: float | None = None) -> RawEnvelope:
        """See ``AsyncJob.wait_raw``."""
        return self._portal.run(self._job.wait_raw(timeout))

    def read(self, raw: RawEnvelope) -> Envelope[ResultT]:
        """See ``AsyncJob.read``."""
        return self._job.read(raw)

    def result(self, timeout: float | None = None) -> ResultT:
        """See ``AsyncJob.result``."""
        return self._portal.run(self._job.result(timeout))

    def results(self, timeout: float | None = None) -> list[ResultT]:
        """See ``AsyncJob.results``."""
        return self._portal.run(self._job.results(timeout))

    def cancel(self) -> JobState:
        """See ``AsyncJob.cancel``."""
        return self._portal.run(self._job.cancel())


class _Outages:
    """Remembers for how long Redis has been away during one wait."""

    def __init__(self) -> None:
        self._since: float | None = None
        self.last: QueueUnavailableError | None = None

    def note(self, error: QueueUnavailableError) -> None:
        now = time.monotonic()
        self._since = self._since or now
        self.last = error
        if now - self._since > OUTAGE_S:
            raise error

    def over(self) -> None:
        self._since = self.last = None
