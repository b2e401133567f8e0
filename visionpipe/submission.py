"""The keywords of ``submit`` and ``map``, spelled once for both faces of the client."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias, TypedDict

from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.base import ID_PATTERN
from visionpipe.schemas.jobs import Lane
from visionpipe.schemas.requests import Options
from visionpipe.schemas.results import Result

OptionsLike: TypeAlias = Options | Mapping[str, object] | None
"""A task's options: its options class, plain values by field name, or none for the defaults."""


class SubmitKeywords(TypedDict, total=False):
    """How to submit; every key may be left out."""

    options: OptionsLike
    """The task's options."""
    lane: Lane
    """Interactive work, the default of ``submit``, overtakes bulk work, that of ``map``."""
    job: str | None
    """An id of your choice: the same id with the same request is the same job."""
    deadline_s: float | None
    """Seconds after which the job expires."""
    wait_for_worker: bool
    """Accept the job though no worker serves the model now."""


class MapKeywords(TypedDict, total=False):
    """How to stream; every key may be left out."""

    options: OptionsLike
    """The task's options."""
    ordered: bool
    """Whether items come in the order of the images (the default), or as they are ready."""
    window: int | None
    """Jobs under way at once."""
    chunk: int | None
    """Images in one job at most; unset takes 32, and up to 128 where an iterable's are answered fast;
    an async source is asked for no more than one job takes to begin with."""
    lane: Lane
    """Bulk unless said otherwise."""
    wait_for_worker: bool
    """Accept jobs though no worker serves the model now."""


def checked_id(job: str) -> str:
    """Give a job id back if it can be one, else raise ``InvalidRequestError``."""
    if not re.fullmatch(ID_PATTERN, job):
        raise InvalidRequestError(
            "expected a job id of 1 to 128 letters, digits, '_', '.' or '-', starting with a letter or digit, "
            f"got {job!r}"
        )
    return job


def task_name(task: str | type[Result]) -> str:
    """Name the task that a name or a result class stands for."""
    return task if isinstance(task, str) else str(task.model_fields["task"].default)
