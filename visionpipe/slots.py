"""The places of one node's workers, and whom each has at the moment."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from visionpipe.child import WorkerProcess, WorkerSpec

_MAX_LOGS = 20


@dataclass
class Slot:
    """One worker's place: its present process and how it has fared."""

    spec: WorkerSpec
    log_path: Path | None
    process: WorkerProcess | None = None
    state: Literal["starting", "ready", "waiting", "retiring", "stopped"] = "starting"
    restarts: int = 0
    """Restarts in all."""
    failures: int = 0
    """Failures in a row."""
    reason: str = ""
    """Why it last died, with the end of its log."""
    start_at: float = 0.0
    """When to start it, by the monotonic clock."""
    ready_at: float = 0.0
    """When it was first seen ready, by the monotonic clock."""
    is_extra: bool = False
    """Whether it was started for speed: it is waited for by nobody, and gone for good when it dies."""


class Slots:
    """All places of a supervisor; threads may add some while others look at them.

    Args:
        log_folder: Where their workers' output goes, a file each; ``None`` means to our own.
    """

    def __init__(self, log_folder: Path | None) -> None:
        if log_folder is not None:
            _open_folder(log_folder)
        self.all: list[Slot] = []
        self._log_folder = log_folder
        self._name = f"{os.getpid()}-{secrets.token_hex(2)}"
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    @property
    def needed(self) -> list[Slot]:
        """Those that were asked for."""
        return [slot for slot in self.all if not slot.is_extra]

    def open(self, *specs: WorkerSpec, is_extra: bool = False) -> None:
        """Have a place for each of some workers."""
        with self._lock:
            # Whoever goes through the list meanwhile has the one before.
            self.all = [*self.all, *(Slot(spec, self._log_path(spec), is_extra=is_extra) for spec in specs)]

    def close(self, slot: Slot) -> None:
        """Have one no longer."""
        with self._lock:
            self.all = [other for other in self.all if other is not slot]

    def _log_path(self, spec: WorkerSpec) -> Path | None:
        if self._log_folder is None:
            return None
        # No model has such a name, which its worker shall say, not the file system.
        name = spec.model.partition("@")[0].replace("/", "_")
        return self._log_folder / f"{name}-{self._name}-{next(self._numbers)}.log"


def _open_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Each supervisor has files of its own; only the newest are worth keeping. Others tidy up here at the same time.
    ages: list[tuple[float, Path]] = []
    for path in folder.glob("*.log*"):
        with contextlib.suppress(FileNotFoundError):
            ages.append((path.stat().st_mtime, path))
    for _, path in sorted(ages)[:-_MAX_LOGS]:
        path.unlink(missing_ok=True)
