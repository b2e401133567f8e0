"""What a worker holds: jobs it has claimed, and the single images of them on their way through it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from models.images import Decoded
from visionpipe.queue import Claim
from visionpipe.schemas.images import ArtifactRef, BlobImage, ImageRef, InlineImage
from visionpipe.schemas.jobs import ErrorInfo, ItemTimings, JobState, Lane, Progress
from visionpipe.schemas.requests import Request
from visionpipe.schemas.results import Result, StopReason
from workers.yielding import RightOfWay

COMMIT_EVERY_S = 2.0
"""Finished items of an unfinished job are committed at least so often, so that little is ever redone."""

_STOP_REASONS: dict[JobState, StopReason] = {JobState.CANCELLED: "cancelled", JobState.EXPIRED: "deadline"}


@dataclass(eq=False)
class HeldJob:
    """A job that this worker has claimed; safe in threads.

    Attributes:
        open_items: Items that have neither an outcome nor been dropped.
        weight: To how many ordinary images one of its own amounts.
        stopped: The final state the job is heading for, once somebody stopped it.
        error: Why it fails, if that is what it heads for.
        lost: Whether another holds the job now; then nothing of it may be written.
        handing_back: Whether what has not begun is left to another worker, or to this one later.
        let_go: Whether that is because the store could not be used.
        got_on: Whether some item had an outcome since this claim.
        num_dropped: Items that will not be done here.
        progress: What long work last told, until it is recorded.
        told_at: When progress was last recorded.
        touched_at: When its pixels in an external store were last given more time.
    """

    claim: Claim
    request: Request
    open_items: int
    weight: int = 1
    claimed_at: float = field(default_factory=time.monotonic)
    stopped: JobState | None = None
    error: ErrorInfo | None = None
    lost: bool = False
    handing_back: bool = False
    let_go: bool = False
    got_on: bool = False
    num_dropped: int = 0
    progress: Progress | None = None
    told_at: float = 0.0
    outcomes: list[tuple[int, bool, bytes]] = field(default_factory=list)
    committed_at: float = field(default_factory=time.monotonic)
    touched_at: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._pixels = self.claim.pixels
        self.claim = self.claim._replace(pixels=b"")

    @property
    def has_pixels(self) -> bool:
        """Whether no picture has to be fetched: all came with the claim."""
        return bool(self._pixels) or all(isinstance(ref, InlineImage) for ref in self.request.images)

    def take_pixels(self, ref: ImageRef) -> bytes | None:
        """Give the blob that came with the claim, once, if that is what a reference names."""
        if not self._pixels or not isinstance(ref, BlobImage) or ref.key != f"blob:{self.claim.job}:0":
            return None
        pixels, self._pixels = self._pixels, b""
        return pixels

    @property
    def lane(self) -> Lane:
        """With which urgency the job came."""
        return self.claim.lane

    @property
    def suspect(self) -> bool:
        """Whether a worker died while it held this job."""
        return self.claim.attempts > 0

    @property
    def dropped(self) -> bool:
        """Whether work that has not begun should not begin."""
        return self.lost or self.handing_back or self.stopped is not None

    @property
    def abandoned(self) -> bool:
        """Whether even work that has begun is of no use: another has the job, or the store cannot be used."""
        return self.lost or self.let_go or self.stopped is JobState.FAILED

    def stop(self, state: JobState, error: ErrorInfo | None = None) -> None:
        """Head for a final state; the first that is told stays."""
        with self.lock:
            if self.stopped is None:
                self.stopped, self.error = state, error

    @property
    def deadline(self) -> float | None:
        """The deadline, on this process' monotonic clock."""
        left = self.claim.left_ms
        return None if left is None else self.claimed_at + left / 1000

    @property
    def is_due(self) -> bool:
        """Whether the outcomes should be committed now."""
        return self.open_items == 0 or (bool(self.outcomes) and time.monotonic() - self.committed_at >= COMMIT_EVERY_S)

    def settle(self, outcomes: Sequence[tuple[int, bool, bytes]], num_dropped: int = 0) -> None:
        """Note items' outcomes, and how many more were dropped."""
        with self.lock:
            self.open_items -= len(outcomes) + num_dropped
            self.outcomes += outcomes
            self.num_dropped += num_dropped

    def take_outcomes(self) -> tuple[list[tuple[int, bool, bytes]], bool]:
        """Take what is to be committed, and whether it is the last of this job."""
        with self.lock:
            taken, self.outcomes = self.outcomes, []
            self.committed_at = time.monotonic()
            return taken, self.open_items == 0


class ArtifactStore(Protocol):
    """Where large outputs are kept."""

    def put(self, data: bytes, media_type: str, *, stop: Callable[[], bool]) -> ArtifactRef:
        """Store one, unless it stops being worth while; see ``Work.keep``."""

    def try_put(self, data: bytes, media_type: str) -> ArtifactRef | None:
        """Store one or not; see ``Work.try_keep``."""


@dataclass(eq=False, slots=True)
class Work:
    """One image of a job on its way through the worker.

    Attributes:
        read: Fetches and decodes a further image that the options name; for ``prepare``.
        store: Where artifacts are kept.
        way: Who may have to step aside for whom.
        encoded: Its file, where that was fetched some time before it is decoded.
        image: The decoded picture, between reading and preparing; none for a task without images.
        size_wh: Its width and height in pixels, after EXIF orientation.
        prepared: What the runtime made of it for its own forward pass.
        num_pixels: Size of the prepared input, for the cap on a micro-batch.
        key: Work with equal keys may share a micro-batch.
        is_long: Whether it is a sequence of ``steps``; ``prepare`` may set it for an image too large for one forward.
        is_quick: Whether bulk work stands aside for it.
        rest: What is left to do off the device, while it waits for that.
    """

    job: HeldJob
    index: int
    ref: ImageRef | None
    read: Callable[[ImageRef], Decoded]
    store: ArtifactStore
    way: RightOfWay = field(default_factory=RightOfWay)
    encoded: bytes | None = None
    image: Decoded | None = None
    size_wh: tuple[int, int] | None = None
    prepared: Any = None
    num_pixels: int = 0
    key: Any = None
    ready_at: float = 0.0
    times_ms: dict[str, float] = field(default_factory=dict)
    batch: int = 1
    is_long: bool = False
    is_quick: bool = False
    rest: Callable[[], Result] | None = None

    @property
    def request(self) -> Request:
        """The request that the image belongs to."""
        return self.job.request

    @property
    def name(self) -> str | None:
        """The caller's word for the image."""
        return self.ref.name if self.ref is not None else None

    @property
    def stopping(self) -> bool:
        """Whether long work should hand over the best it has, now."""
        return self.job.dropped

    @property
    def stop_reason(self) -> StopReason | None:
        """Why it should, if its job was stopped."""
        return _STOP_REASONS.get(self.job.stopped) if self.job.stopped is not None else None

    def step_aside(self) -> None:
        """Let quick interactive images go first, for a moment, if there are any; not for the device thread."""
        self.way.step_aside(self.job.lane, quick=self.is_quick)

    def keep(self, data: bytes, media_type: str) -> ArtifactRef:
        """Store a large output, however long Redis is away within a lease; safe in threads.

        Args:
            data: The encoded output.
            media_type: For example ``image/png`` or ``application/x-npy``.

        Raises:
            QueueUnavailableError: The store cannot be reached.
        """
        return self.store.put(data, media_type, stop=lambda: self.job.abandoned)

    def try_keep(self, data: bytes, media_type: str) -> ArtifactRef | None:
        """Store an output that can be done without, such as a preview, at the first attempt or not at all."""
        return self.store.try_put(data, media_type)

    def timings(self) -> ItemTimings:
        """Where the time went so far."""
        rounded = {name: round(max(value, 0.0), 3) for name, value in self.times_ms.items()}
        return ItemTimings(queue_ms=self.job.claim.waited_ms, batch=self.batch, **rounded)
