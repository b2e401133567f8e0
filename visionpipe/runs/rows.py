"""What goes into the ledger and comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple


class InputState(StrEnum):
    """``pending → submitted → done | failed``; ``skipped`` from the start. Retried inputs are pending again."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class Input(NamedTuple):
    """One image of a chunk."""

    path: bytes
    """Relative to the folder of the run."""
    size_bytes: int
    """Size when it was scanned."""
    position: int
    """Index in the images of its chunk's job."""


@dataclass(frozen=True)
class Chunk:
    """The inputs that travel in one job, in the order of its images.

    Those that changed on disk between two sittings have left it, and their positions stay empty.
    """

    serial: int
    """Number of the chunk within its run."""
    job: str
    """Id of its job; the same in every sitting of the run."""
    inputs: tuple[Input, ...]
    """Its images."""

    def path(self, position: int) -> bytes | None:
        """The path of the input at an index of the job's images; none where there is none any more."""
        return self._paths.get(position)

    @cached_property
    def _paths(self) -> dict[int, bytes]:
        return {image.position: image.path for image in self.inputs}


class Outcome(NamedTuple):
    """What became of one input of a chunk."""

    position: int
    """Index of the input in the chunk."""
    answer: str | None = None
    """JSON of the item: result, error and timings."""
    code: str | None = None
    """Error code; ``None`` when there is a result."""
    message: str = ""
    """The error in words."""
    retryable: bool = False
    """Whether to submit it again, as long as its tries last."""


class Settled(NamedTuple):
    """How many inputs a chunk brought to an end."""

    done: int = 0
    """With a result."""
    failed: int = 0
    """With an error."""
    retried: int = 0
    """Back among the pending."""


class Counts(NamedTuple):
    """Inputs by state; ``found`` is their sum."""

    pending: int = 0
    submitted: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def found(self) -> int:
        """Everything the scan has named."""
        return sum(self)

    @property
    def open(self) -> int:
        """What has no outcome so far."""
        return self.pending + self.submitted


class Row(NamedTuple):
    """One input as the ledger holds it."""

    path: bytes
    size_bytes: int
    state: InputState
    code: str | None
    message: str
    answer: str | None
    tries: int
