"""What the device thread tells the rest of the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visionpipe.schemas.jobs import Progress
from workers.runtime import Answer
from workers.work import Work


@dataclass
class Hooks:
    """Called on the device thread, all of them."""

    finished: Callable[[list[Work], list[Answer]], None]
    """A micro-batch has left the device."""
    dropped: Callable[[Work], None]
    """Work of a stopped or lost job will not be done."""
    progressed: Callable[[Work, Progress], None]
    """Long work made a step."""
    suspect: Callable[[Work], bool]
    """Mark, decode and prepare one suspect; False when that was the end of it."""
