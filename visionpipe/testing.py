"""A client without Redis and workers, for other people's unit tests.

Requests, items and results pass through real JSON bytes, errors through their wire form; only the queue and the
network behind it are replaced, by one function per task:

    >>> from visionpipe.schemas.results import ClassificationResult, ClassScore
    >>> from visionpipe.testing import MemoryClient
    >>> def a_cat(image, options):
    ...     return ClassificationResult(classes=[ClassScore(class_id=281, label="tabby", score=0.9)])
    >>> with MemoryClient({"classification": a_cat}) as client:
    ...     client.classify(b"the bytes of a picture", model="resnet50").top.label
    ...     client.submissions[0].request.model
    'tabby'
    'resnet50'
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

from visionpipe.aclient import AsyncClient
from visionpipe.client import Client
from visionpipe.errors import ImageNotFoundError, JobConflictError, NoWorkerError
from visionpipe.queue import Accounts, QueueStatus, RawEnvelope, Submitted
from visionpipe.schemas.images import ArtifactRef, BlobImage, ImageRef, InlineImage
from visionpipe.schemas.jobs import Item, JobRecord, JobState, Lane, ModelInfo, WorkerRecord
from visionpipe.schemas.requests import Request
from visionpipe.schemas.results import Result
from visionpipe.settings import Settings
from visionpipe.tasks import parse_request
from visionpipe.transport import Bells
from visionpipe.wire import error_info

Handler: TypeAlias = Callable[[bytes, Any], Result]
"""Takes one encoded image (empty for a request without images) and the task's options; what it raises becomes the
item's error."""

DIGEST = "0" * 12
"""The digest of every model here."""


@dataclass(frozen=True)
class Submission:
    """What a client submitted."""

    job: str
    """The job's id."""
    request: Request
    """The request, after its way through JSON."""
    lane: Lane
    """With which urgency."""
    images: list[bytes]
    """The encoded images, in the order of the request; empty for a URL."""


@dataclass
class _MemoryJob:
    record: JobRecord
    digest: str
    items: list[bytes] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class MemoryTransport:
    """A ``Transport`` in this process: jobs run at once, one function per task.

    Args:
        handlers: Task name → function; a task without one has no worker.
        latency_s: How long each job takes.
    """

    def __init__(self, handlers: Mapping[str, Handler], *, latency_s: float = 0) -> None:
        self.bells = Bells()
        self.submissions: list[Submission] = []
        """Everything submitted so far; a job submitted twice stands here once."""
        self._handlers = dict(handlers)
        self._latency_s = latency_s
        self._errors: list[Exception] = []
        self._jobs: dict[str, _MemoryJob] = {}
        self._stored: dict[str, bytes] = {}
        self._accounts: dict[str, Accounts] = {}

    def fail_next(self, *errors: Exception) -> None:
        """Let the next submissions raise these, one each."""
        self._errors.extend(errors)

    async def submit(
        self, request: Request, *, job: str, lane: Lane, payloads: Mapping[str, bytes], wait_for_worker: bool
    ) -> Submitted:
        """See ``Transport.submit``."""
        document = request.model_dump_json().encode()
        if self._errors:
            raise self._errors.pop(0)
        if request.task not in self._handlers and not wait_for_worker:
            raise NoWorkerError(f"no handler for {request.task!r}; there are {sorted(self._handlers)}")
        digest = sha256(document).hexdigest()
        if known := self._jobs.get(job):
            if known.digest != digest:
                raise JobConflictError(f"Expected a new job id, but {job!r} is taken by a different request.")
            return Submitted(created=False, state=known.record.state)
        # What the handler sees has been JSON, so a test meets every field that would not survive it.
        received = parse_request(document)
        self._stored.update(payloads)
        self.submissions.append(Submission(job, received, lane, [self._pixels(ref) or b"" for ref in received.images]))
        record = _new_record(job, received, lane)
        memory = self._jobs[job] = _MemoryJob(record, digest)
        self._account(received.model, submitted=record.total)
        if received.task in self._handlers:
            memory.task = asyncio.create_task(self._work(memory, received))
        return Submitted(created=True, state=JobState.QUEUED)

    async def record(self, job: str) -> JobRecord | None:
        """See ``Transport.record``."""
        memory = self._jobs.get(job)
        return memory.record if memory else None

    async def envelope(self, job: str) -> RawEnvelope | None:
        """See ``Transport.envelope``."""
        memory = self._jobs.get(job)
        if memory is None:
            return None
        model = ModelInfo(name=memory.record.model.partition("@")[0], digest=DIGEST, precision="fp32", device="cpu")
        return RawEnvelope(memory.record, model, list(memory.items))

    async def cancel(self, job: str) -> JobState | None:
        """See ``Transport.cancel``."""
        memory = self._jobs.get(job)
        if memory is None:
            return None
        if not memory.record.state.ended:
            if memory.task is not None:
                memory.task.cancel()
            self._account(memory.record.model, cancelled=memory.record.total - len(memory.items))
            self._end(memory, JobState.CANCELLED)
        return memory.record.state

    def keep(self, data: bytes, media_type: str) -> ArtifactRef:
        """Store a large output, as a worker does, and give its reference for a result; nothing expires here."""
        ref = ArtifactRef(key=f"artifact:{sha256(data).hexdigest()}", media_type=media_type, size_bytes=len(data))
        self._stored[ref.key] = data
        return ref

    async def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """See ``Transport.put``; nothing expires here."""
        self._stored[key] = data

    async def get(self, key: str) -> bytes | None:
        """See ``Transport.get``."""
        return self._stored.get(key)

    async def workers(self) -> list[WorkerRecord]:
        """None; every task with a handler is served all the same."""
        return []

    async def queues(self) -> list[QueueStatus]:
        """None; every job runs at once."""
        return []

    async def accounts(self) -> dict[str, Accounts]:
        """See ``Transport.accounts``."""
        return dict(self._accounts)

    async def aclose(self) -> None:
        """See ``Transport.aclose``."""
        tasks = [memory.task for memory in self._jobs.values() if memory.task and not memory.task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, memory: _MemoryJob, request: Request) -> None:
        memory.record = memory.record.model_copy(update={"state": JobState.RUNNING, "started_at": time.time()})
        await asyncio.sleep(self._latency_s)
        refs: Sequence[ImageRef | None] = request.images or [None]
        for index, ref in enumerate(refs):
            item = self._item(request, index, ref)
            memory.items.append(item.model_dump_json().encode())
            memory.record = memory.record.model_copy(update={"finished": len(memory.items)})
            self._account(request.model, **{"done" if item.ok else "failed": 1})
        self._end(memory, JobState.DONE)

    def _item(self, request: Request, index: int, ref: ImageRef | None) -> Item[Result]:
        name = ref.name if ref else None
        try:
            data = b"" if ref is None else self._pixels(ref)
            if data is None:
                raise ImageNotFoundError(f"the in-memory client has no pixels for {ref!r}: give it bytes or a file")
            return Item(index=index, name=name, result=self._handlers[request.task](data, request.options))
        except Exception as error:  # noqa: BLE001 - a handler's fault becomes the item's, as in a worker
            return Item(index=index, name=name, error=error_info(error))

    def _pixels(self, ref: ImageRef) -> bytes | None:
        if isinstance(ref, InlineImage):
            return ref.data
        return self._stored.get(ref.key) if isinstance(ref, BlobImage) else None

    def _end(self, memory: _MemoryJob, state: JobState) -> None:
        memory.record = memory.record.model_copy(update={"state": state, "ended_at": time.time()})
        for key in [key for key in self._stored if key.startswith(f"blob:{memory.record.job}:")]:
            del self._stored[key]
        self.bells.ended(memory.record.job)

    def _account(self, model: str, **counts: int) -> None:
        name = model.partition("@")[0]
        before = self._accounts.get(name, Accounts())
        self._accounts[name] = before.model_copy(
            update={what: getattr(before, what) + count for what, count in counts.items()}
        )


def _new_record(job: str, request: Request, lane: Lane) -> JobRecord:
    return JobRecord(
        job=job,
        task=request.task,
        model=request.model,
        lane=lane,
        state=JobState.QUEUED,
        total=request.num_items,
        finished=0,
        attempts=0,
        submitted_at=time.time(),
    )


class _InMemory:
    memory: MemoryTransport
    """What stands for queue and workers."""

    @property
    def submissions(self) -> list[Submission]:
        """Everything submitted so far."""
        return self.memory.submissions

    def fail_next(self, *errors: Exception) -> None:
        """Let the next submissions raise these, one each."""
        self.memory.fail_next(*errors)

    def keep(self, data: bytes, media_type: str = "image/png") -> ArtifactRef:
        """Store a large output for a handler's result to name; ``result.draw`` and ``client.artifact`` find it."""
        return self.memory.keep(data, media_type)


class AsyncMemoryClient(_InMemory, AsyncClient):
    """An ``AsyncClient`` over a ``MemoryTransport``, whose arguments it takes."""

    def __init__(
        self, handlers: Mapping[str, Handler], *, latency_s: float = 0, settings: Settings | None = None
    ) -> None:
        self.memory = MemoryTransport(handlers, latency_s=latency_s)
        super().__init__(settings=settings, transport=self.memory)


class MemoryClient(_InMemory, Client):
    """A ``Client`` over a ``MemoryTransport``, whose arguments it takes."""

    def __init__(
        self, handlers: Mapping[str, Handler], *, latency_s: float = 0, settings: Settings | None = None
    ) -> None:
        self.memory = MemoryTransport(handlers, latency_s=latency_s)
        super().__init__(settings=settings, transport=self.memory)
