"""What the demo asks beside classification: pictures for every other task, with what is true of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, cast

from visionpipe.demo.folder import GROUP
from visionpipe.errors import InvalidRequestError

ENTRY_POINT = "tasks"
"""Name of the entry point that writes the pictures."""


class TaskExample(Protocol):
    """One task, a model that does it, and a folder of pictures."""

    @property
    def title(self) -> str:
        """What is asked, for people."""

    @property
    def task(self) -> str:
        """The task."""

    @property
    def model(self) -> str:
        """The model."""

    @property
    def folder(self) -> Path:
        """Where the pictures were written."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The task's options, without pictures."""

    @property
    def styles(self) -> Sequence[Path]:
        """Pictures whose style is wanted."""

    @property
    def truth(self) -> Mapping[str, Any]:
        """File name → what is true of it: a label, some labels, a number of objects, or the corners of a square."""


def write_task_pictures(folder: Path) -> Sequence[TaskExample]:
    """Write the pictures of every task below ``folder``.

    Raises:
        InvalidRequestError: VisionPipe is not installed with its entry points, or a package of the ``demo`` extra is
            missing.
    """
    for entry_point in entry_points(group=GROUP, name=ENTRY_POINT):
        try:
            write = entry_point.load()
            return cast("Sequence[TaskExample]", write(folder))
        except ImportError as error:
            raise InvalidRequestError(
                f"The demo needs {error.name}, which is not installed. Run: pip install 'visionpipe[demo]'"
            ) from error
    raise InvalidRequestError(
        f"The demo needs an installed VisionPipe with its {GROUP}:{ENTRY_POINT}; install it again."
    )
