"""The table of tasks: name → request class, result class.

A task's runtime is ``workers.<name>``; its name stands nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

from visionpipe.schemas.requests import ClassificationRequest, Request
from visionpipe.schemas.results import ClassificationResult, Result


class TaskSpec(NamedTuple):
    """One task's classes."""

    request: type[Request]
    result: type[Result]


TASKS: dict[str, TaskSpec] = {
    "classification": TaskSpec(ClassificationRequest, ClassificationResult),
}
