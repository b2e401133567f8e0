"""The records of jobs and workers, and the envelope a job ends in."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import Field, SerializeAsAny, model_validator

from visionpipe.schemas.base import JobId, ModelTarget, Name, Schema
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import Result


class Lane(StrEnum):
    """Interactive work overtakes bulk work at every micro-batch."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


class JobState(StrEnum):
    """``queued → running → done | failed | cancelled | expired``."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class ErrorInfo(Schema):
    """One of our errors, as data."""

    code: str
    """Stable name; see ``visionpipe.errors``."""
    message: str
    """What was expected, what came, what to do."""
    retryable: bool = False
    """Whether the same request may succeed later, unchanged."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Facts that go with the error."""


class ItemTimings(Schema):
    """Where one item's time went, in milliseconds."""

    queue_ms: float = Field(default=0, ge=0)
    """From submit to claim."""
    fetch_ms: float = Field(default=0, ge=0)
    """Reading the encoded image from store, file or URL."""
    decode_ms: float = Field(default=0, ge=0)
    """Encoded bytes to pixels."""
    preprocess_ms: float = Field(default=0, ge=0)
    """Pixels to the network's input."""
    batch_wait_ms: float = Field(default=0, ge=0)
    """Waiting for the device."""
    forward_ms: float = Field(default=0, ge=0)
    """The device step, shared by ``batch`` items."""
    postprocess_ms: float = Field(default=0, ge=0)
    """The network's output to this result."""
    batch: int = Field(default=1, ge=1)
    """Items in the micro-batch."""


ResultT = TypeVar("ResultT", bound=Result, covariant=True)


class Item(Schema, Generic[ResultT]):
    """The outcome of one image of a job: a result or an error, never both."""

    index: int = Field(ge=0)
    """Position of the image in the request."""
    name: str | None = None
    """The caller's word for the image, from its reference."""
    result: SerializeAsAny[ResultT] | None = None
    """The answer."""
    error: ErrorInfo | None = None
    """Why there is none."""
    timings: ItemTimings | None = None
    """Where the time went; absent when no worker came so far."""

    @model_validator(mode="after")
    def _result_or_error(self) -> Item[ResultT]:
        if (self.result is None) == (self.error is None):
            raise ValueError("an item has either a result or an error")
        return self

    @property
    def ok(self) -> bool:
        """Whether there is a result."""
        return self.error is None


class ModelInfo(Schema):
    """Which model answered."""

    name: Name
    """The model's name."""
    digest: str = Field(pattern=r"^[0-9a-f]{12}$")
    """Version of card and weights; pin it with ``name@digest``."""
    precision: str
    """``fp32``, ``bf16`` or ``fp16``."""
    device: str
    """For example ``cpu`` or ``cuda:0``."""


class Progress(Schema):
    """How far a running job has come."""

    done: int = Field(default=0, ge=0)
    """Items with an outcome, or steps finished."""
    total: int = Field(default=0, ge=0)
    """Items or steps in all; 0 when unknown."""
    note: str = ""
    """One line for people."""
    eta_s: float | None = Field(default=None, ge=0)
    """Estimated seconds to go, from the measured cost of a step; absent when unknown."""
    preview: ArtifactRef | None = None
    """A picture of the best so far."""
    details: dict[str, Any] = Field(default_factory=dict)
    """Task-specific facts, such as a loss curve."""


class Envelope(Schema, Generic[ResultT]):
    """Everything a job ended with."""

    job: JobId
    """The job's id."""
    state: JobState
    """How it ended, or where it is."""
    items: list[Item[ResultT]]
    """One per image that has an outcome, in the order of the request."""
    total: int = Field(ge=0)
    """Items the job has in all."""
    model: ModelInfo | None = None
    """Which model answered; absent when none came so far."""
    error: ErrorInfo | None = None
    """Why the job failed, was cancelled or expired."""
    attempts: int = Field(default=0, ge=0)
    """Workers lost while they held the job."""


class JobRecord(Schema):
    """What Redis holds about one job; times are Unix seconds of the Redis clock."""

    job: JobId
    """The job's id."""
    task: str
    """What is asked."""
    model: ModelTarget
    """Of which model."""
    lane: Lane
    """With which urgency."""
    state: JobState
    """Where it is."""
    total: int = Field(ge=0)
    """Items in all."""
    finished: int = Field(ge=0)
    """Items with an outcome."""
    attempts: int = Field(ge=0)
    """Workers lost while they held it."""
    submitted_at: float
    """When it was accepted."""
    started_at: float | None = None
    """When a worker last claimed it."""
    ended_at: float | None = None
    """When it reached its final state."""
    deadline_at: float | None = None
    """When it expires."""
    worker: str | None = None
    """Who holds it, or held it last."""
    cancel_requested: bool = False
    """Whether somebody asked for it to stop."""
    progress: Progress | None = None
    """What its worker last said."""
    error: ErrorInfo | None = None
    """Why it failed, was cancelled or expired."""


class Usage(Schema):
    """What a worker has used since it started, in seconds of one core; only differences of two of them tell something.

    Kept by the system for every thread, so that it costs the images nothing.
    """

    host: str
    """The machine's name."""
    device: str
    """For example ``cpu`` or ``cuda:0``."""
    cores: float = Field(gt=0)
    """Cores that the worker may use, which it may have to share."""
    images: int = Field(ge=0)
    """Images that got an outcome."""
    decode_s: float = Field(ge=0)
    """Fetching, decoding and preprocessing, but for what counts as ``other_s``."""
    forward_s: float = Field(ge=0)
    """Micro-batches: the device thread, and torch's own threads."""
    postprocess_s: float = Field(ge=0)
    """What is left once images have left the device: measuring, encoding, keeping."""
    other_s: float = Field(ge=0)
    """All else: claims, outcomes, leases, collecting garbage.

    Also the decoding of single interactive pictures, done by the very threads that claim them: the more of these there
    are beside a folder run, the more its ceiling is overstated, and its share of it understated.
    """
    device_s: float = Field(ge=0)
    """For how long the device computed, by the clock."""

    def since(self, first: Usage) -> Usage:
        """Subtract what it had used before."""
        counts = {
            name: max(0, getattr(self, name) - getattr(first, name))
            for name in ("images", "decode_s", "forward_s", "postprocess_s", "other_s", "device_s")
        }
        return self.model_copy(update=counts)


class WorkerRecord(Schema):
    """What a worker announces every few seconds."""

    worker: str
    """``host-pid-random``."""
    model: Name
    """The model it hosts."""
    digest: str
    """Version of card and weights."""
    tasks: list[str]
    """What it can be asked."""
    device: str
    """For example ``cpu`` or ``cuda:0``."""
    precision: str
    """``fp32``, ``bf16`` or ``fp16``."""
    code: str = "eager"
    """``eager``, ``compiling`` or ``compiled``; eager with a reason where it stays so."""
    lanes: list[Lane]
    """The lanes it takes from."""
    media_roots: list[str] = Field(default_factory=list)
    """Names of the media roots it mounts."""
    max_batch: int = Field(ge=1)
    """Largest micro-batch."""
    rate: float | None = None
    """Images a second, lately measured while busy; absent before the first batch."""
    state: str = "ready"
    """``ready`` or ``draining``."""
    held_items: int = 0
    """Items claimed and not finished."""
    done_items: int = 0
    """Items finished since it started."""
    rss_bytes: int = 0
    """Resident memory."""
    device_memory_bytes: int = 0
    """Most memory of a GPU that it has reserved so far; 0 on a CPU."""
    usage: Usage | None = None
    """What it has used so far; absent where the system does not tell."""
    version: str
    """VisionPipe's version."""
    started_at: float
    """Unix seconds."""
    beat_at: float = 0
    """Unix seconds of the Redis clock, of the last announcement."""
