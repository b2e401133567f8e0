"""One worker process as its supervisor sees it: how it is started, watched, stopped, and what it last said."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from visionpipe.settings import Settings
from visionpipe.tether import tethered

_MAX_LOG_BYTES = 8 * 2**20


@dataclass(frozen=True)
class WorkerSpec:
    """What one worker shall host, and how."""

    model: str
    """Name of the model, or ``name@digest``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda:0``, ..."""
    max_batch: int | None = None
    """Largest micro-batch; unset means the card's."""
    precision: str = "auto"
    """``auto``, ``fp32``, ``bf16`` or ``fp16``."""
    lanes: tuple[str, ...] | None = None
    """Lanes it takes from; unset means all."""
    media_roots: Mapping[str, Path] = field(default_factory=dict)
    """Media roots besides those of the settings."""
    http_port: int | None = None
    """Port of its health and metrics pages; unset means the settings'."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables."""

    def command(self, worker_id: str) -> list[str]:
        """The command line of a worker with this id."""
        command = [sys.executable, "-P", "-m", "visionpipe", "worker", self.model, "--worker-id", worker_id]
        command += ["--device", self.device, "--precision", self.precision]
        if self.max_batch is not None:
            command += ["--max-batch", str(self.max_batch)]
        if self.lanes is not None:
            command += ["--lanes", ",".join(self.lanes)]
        if self.http_port is not None:
            command += ["--http-port", str(self.http_port)]
        for name, path in self.media_roots.items():
            command += ["--media-root", f"{name}={path}"]
        return command


def settings_environment(settings: Settings) -> dict[str, str]:
    """Spell the settings that are not defaults as environment variables, for a child process."""
    changed = settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    return {
        f"VISIONPIPE_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in changed.items()
    }


class WorkerProcess:
    """One run of one worker; a restart is a new object with a new id.

    Args:
        spec: What it hosts.
        settings: Handed on through the environment; command lines are for everyone to read, Redis passwords are not.
        log_path: Where its output goes; ``None`` means to ours.
    """

    def __init__(self, spec: WorkerSpec, settings: Settings, log_path: Path | None) -> None:
        self.spec = spec
        self.log_path = log_path
        self.worker_id = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.exit_code: int | None = None
        self._log_start = 0
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("VISIONPIPE_")}
        env = {**inherited, **settings_environment(settings), **spec.env, "PYTHONUNBUFFERED": "1"}
        command = tethered(spec.command(self.worker_id), signal.SIGTERM)
        if log_path is None:
            self._process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, process_group=0)
            return
        self.trim_log()
        with log_path.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its process group."""
        return self._process.pid

    def reap(self) -> bool:
        """Whether it has ended; what it left behind in its process group is ended with it."""
        if self.exit_code is not None:
            return True
        if not self._has_ended():
            return False
        # Until it is reaped its id, and so its group's, can be nobody else's.
        self.kill()
        self.exit_code = self._process.wait()
        return True

    def _has_ended(self) -> bool:
        if hasattr(os, "waitid"):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        # macOS has none before Python 3.13.
        return self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to drain."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and its process group at once."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def trim_log(self) -> None:
        """Move a log that has grown too long aside; the process goes on writing to the emptied file."""
        if self.log_path is None:
            return
        # A full disk, or somebody who tidies up, must not end the one who looks after the workers.
        with contextlib.suppress(OSError):
            if self.log_path.stat().st_size > _MAX_LOG_BYTES:
                shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
                os.truncate(self.log_path, 0)
                self._log_start = 0

    def last_words(self, lines: int = 15) -> str:
        """The last lines it wrote, if they went to a log."""
        if self.log_path is None:
            return ""
        try:
            with self.log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - 16384))
                return "\n".join(log.read().decode(errors="replace").rstrip().splitlines()[-lines:])
        except OSError as error:
            return f"Its log {self.log_path} cannot be read: {error.strerror}."
