"""Starts worker processes quickly: torch is imported once, each worker is a fork of this process.

Reads ``{"args": [...], "env": {...}, "log": path, "clock_s": 0}`` lines, answers the process id of each; a worker then
runs the real command line. Nothing is computed here before the fork, so no thread of torch is lost in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time

import workers.host
from workers.cli import app

PR_SET_PDEATHSIG = 1


def become_worker(told: dict) -> None:
    os.setsid()
    if sys.platform == "linux":
        # A test run that is itself killed leaves no worker behind: this process ends with its stdin, they with it.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(told["env"])
    if told["clock_s"]:
        shift_clock(told["clock_s"])
    app(told["args"])


def shift_clock(seconds: float) -> None:
    """Make the clock of this process wrong, for everybody who has it already too."""
    right = time.time

    def wrong() -> float:
        return right() + seconds

    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is right:
                setattr(module, name, wrong)


def main() -> None:
    assert workers.host.Host is not None
    # The kernel buries the dead; a test sees at once that a process is gone.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            become_worker(json.loads(line))
        print(pid, flush=True)


main()
