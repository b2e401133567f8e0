"""What a run is asked to do: the part that must be the same when it is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionpipe.errors import RunConflictError
from visionpipe.runs.names import as_text, real_path
from visionpipe.schemas.requests import Options
from visionpipe.tasks import build_options


@dataclass(frozen=True)
class RunSpec:
    """One run's identity.

    Args:
        folder: The folder of images; links in it are resolved.
        task: What is asked of every image.
        model: Of which model: ``name`` or ``name@digest``.
        options: The task's options, as JSON values with their defaults filled in.
        patterns: Which names are images; none means the usual suffixes.
        every_file: Whether every file is submitted, whatever its name.
    """

    folder: Path
    task: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()
    every_file: bool = False

    @property
    def folder_bytes(self) -> bytes:
        """The real path of the folder."""
        return real_path(self.folder)

    def identity(self) -> dict[str, str]:
        """Everything that two sittings of one run must agree on, as text."""
        return {
            "folder": as_text(self.folder_bytes),
            "task": self.task,
            "model": self.model,
            "options": json.dumps(self.options, sort_keys=True),
            "pattern": json.dumps(sorted(self.patterns)),
            "every file": json.dumps(self.every_file),
        }

    def facts(self) -> dict[str, str]:
        """The identity, and what else ``recorded`` needs."""
        return {**self.identity(), "folder_hex": self.folder_bytes.hex()}

    @classmethod
    def recorded(cls, facts: Mapping[str, str]) -> RunSpec:
        """Rebuild a run's identity from the facts in its ledger."""
        return cls(
            folder=Path(os.fsdecode(bytes.fromhex(facts["folder_hex"]))),
            task=facts["task"],
            model=facts["model"],
            options=json.loads(facts["options"]),
            patterns=tuple(json.loads(facts["pattern"])),
            every_file=json.loads(facts["every file"]),
        )

    def request_options(self) -> Options:
        """The options as the task's own class."""
        return build_options(self.task, self.options)

    def check(self, recorded: Mapping[str, str], out: Path) -> None:
        """Refuse to go on with another run's ledger.

        Raises:
            RunConflictError: Some part of the identity differs; the message names each.
        """
        wanted = self.identity()
        differing = [name for name, value in wanted.items() if recorded.get(name) != value]
        if differing:
            lines = [f"  {name}: recorded {recorded.get(name)}, asked for {wanted[name]}" for name in differing]
            raise RunConflictError(
                f"{str(out)!r} holds another run:\n"
                + "\n".join(lines)
                + "\nRun the same again to resume it, choose another output folder, or throw it away with --fresh.",
                differing=differing,
            )


def full_options(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check a task's options and fill in the defaults.

    Raises:
        UnknownTaskError: There is no such task.
        InvalidRequestError: An option is unknown or has a value it must not have.
    """
    return build_options(task, options).model_dump(mode="json")
