"""Real worker processes, started quickly: each is a fork of one process that has imported torch."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

QUICK = {"VISIONPIPE_LEASE_S": "1.5", "VISIONPIPE_RENEW_S": "0.3", "VISIONPIPE_SWEEP_S": "0.3"}
CALM = {"VISIONPIPE_LEASE_S": "30"}
"""For what no lease need end: a busy machine may keep a worker from renewing a short one."""


def wait_for(what: str, check: Callable[[], Any], timeout_s: float = 60) -> Any:
    until = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < until, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.01)
    return found


class Worker:
    """One worker process."""

    def __init__(self, worker: str, pid: int, log: Path) -> None:
        self.worker, self.pid, self._log = worker, pid, log
        # The kernel buries workers at once, and their numbers are soon somebody else's.
        self._handle: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(pid)

    def __del__(self) -> None:
        if self._handle is not None:
            os.close(self._handle)

    @property
    def alive(self) -> bool:
        return self._reaches(0)

    def signal(self, signum: int) -> None:
        self._reaches(signum)

    def _reaches(self, signum: int) -> bool:
        if self._handle is None:
            return False
        try:
            signal.pidfd_send_signal(self._handle, signum)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """``kill -9``, also of a stopped process."""
        self.signal(signal.SIGKILL)
        wait_for("death of a worker", lambda: not self.alive)

    def log(self) -> str:
        # A worker that was forked just now has not opened it yet.
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def rss_mb(self) -> float:
        """Resident memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


class Forge:
    """The process whose forks are workers; safe in threads.

    Args:
        folder: Where their logs go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.workers: list[Worker] = []
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(
        self,
        redis_url: str,
        models: Path,
        *,
        model: str = "probe",
        clock_s: float = 0,
        args: tuple[str, ...] = (),
        **env: str,
    ) -> Worker:
        """Start a worker; it is not ready yet.

        Args:
            redis_url: Its Redis.
            models: The folder of user models.
            model: What it hosts.
            clock_s: By how much its clock is wrong.
            args: More of its command line.
            env: Its settings beside the quick ones.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            name = f"worker-{next(self._numbers)}"
            log = self._folder / f"{name}.log"
            command = [model, "--worker-id", name, "--redis-url", redis_url, "--precision", "fp32", "--device", "cpu"]
            settings = {**QUICK, "VISIONPIPE_MODELS": str(models), **env}
            told = {"args": [*command, *args], "env": settings, "log": str(log), "clock_s": clock_s}
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            worker = Worker(name, int(self._process.stdout.readline()), log)
            self.workers.append(worker)
        return worker

    def clear(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.workers.clear()

    def close(self) -> None:
        self.clear()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextlib.contextmanager
def opened_forge() -> Iterator[Forge]:
    """Open a forge, and end it with all its workers."""
    folder = Path(tempfile.mkdtemp(prefix="vpf"))
    forge = Forge(folder)
    try:
        yield forge
    finally:
        forge.close()
        shutil.rmtree(folder, ignore_errors=True)
