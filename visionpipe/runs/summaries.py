"""What a whole run of one task amounts to, beyond counting its inputs: tables and plots over all results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from visionpipe.runs.labels import Truth
from visionpipe.runs.report import Summary
from visionpipe.runs.robustness import FILES, Robustness


class Summarizer(Protocol):
    """Collects one task's results, one at a time, and keeps no more of them than it needs."""

    def add(self, result: dict[str, Any], truth: Truth | None) -> None:
        """Take one result into account, given as JSON data, and what its image really shows, where that is known."""

    def write(self, out: Path) -> Summary | None:
        """Write the files into the output folder, if there is anything to tell."""


SUMMARIZERS: dict[str, Callable[[], Summarizer]] = {"adversarial": Robustness}
"""Task → what makes its summarizer."""

SUMMARY_FILES = (*FILES,)
"""Everything that any of them writes, relative to the output folder; a fresh run throws it away."""


def summarizer(task: str) -> Summarizer | None:
    """Make the summarizer of a task, if it has one."""
    made = SUMMARIZERS.get(task)
    return None if made is None else made()
