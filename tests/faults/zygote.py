"""Starts worker processes quickly: torch is imported once, each worker is a fork of this process.

Reads ``{"args": [...], "env": {...}, "log": path}`` lines, answers the process id of each; a worker then runs the real
command line. Nothing is computed here before the fork, so no thread of torch is lost in it.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import workers.host
from workers.cli import app


def become_worker(told: dict) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(told["env"])
    app(told["args"])


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
