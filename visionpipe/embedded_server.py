"""The keeper of one embedded Redis: ``python -m visionpipe.embedded_server FOLDER SOCKET SERVER_PROGRAM``.

The command detaches a keeper and returns once its server answers (status 0), or writes what went wrong to
stderr (status 1). The keeper holds ``keeper.lock``; its server inherits ``server.lock``, so that a successor
knows whether an old server still uses the data.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from visionpipe.embedded import START_TIMEOUT_S, ServerFacts
from visionpipe.locks import FileLock
from visionpipe.redis_server import RedisServer

LINGER_S = 5.0
"""How long the server outlives its last user."""

_TICK_S = 0.2
_MAX_LOG_BYTES = 2**20
_RESTART_WAITS_S = (0.0, 0.5, 1.0, 2.0, 5.0)
_STEADY_S = 10.0
_OPTIONS = ("--appendonly", "yes", "--appendfsync", "everysec")
_log = logging.getLogger(__name__)


class Keeper:
    """Runs one server until nobody has used it for ``LINGER_S``.

    Args:
        folder: Data folder, with the locks.
        socket_path: Where the server listens.
        binary: The server program.
    """

    def __init__(self, folder: Path, socket_path: Path, binary: Path) -> None:
        self.folder = folder
        self._users = FileLock(folder / "users.lock")
        self._data = FileLock(folder / "server.lock")
        self._server = RedisServer(binary, socket_path, folder, options=_OPTIONS)
        self._ended = False
        self._idle_since: float | None = None
        self._failures = 0
        self._started = 0.0

    def run(self, report: Callable[[str], None]) -> None:
        """Keep the server; ``report`` is told once, ``""`` for success or what is wrong."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._end)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            wrong = self._await_old_server() or self._start()
            report(wrong)
            while not wrong and not self._ended and not self._abandoned():
                self._tend()
                time.sleep(_TICK_S)
        finally:
            self._server.stop()
            self._clean_up()

    def _clean_up(self) -> None:
        if self._users.in_place():
            (self.folder / "server.json").unlink(missing_ok=True)
            self._server.socket_path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._server.socket_path.parent.rmdir()
        _log.info("ended")

    def _end(self, signum: int, frame: object) -> None:
        self._ended = True

    def _abandoned(self) -> bool:
        # The data directory was removed: a newcomer has, or will have, locks of its own.
        if not self._users.in_place():
            return True
        # Holding the lock exclusively from here to the end makes a newcomer wait until the server is gone.
        if not self._users.acquire():
            self._idle_since = None
            return False
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if now - self._idle_since >= LINGER_S:
            return True
        self._users.release()
        return False

    def _await_old_server(self) -> str:
        if self._data.acquire(timeout_s=2):
            return ""
        facts = ServerFacts.read(self.folder)
        _log.warning("a server without keeper (%s) has the data; asking it to end", facts)
        if facts:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(START_TIMEOUT_S)
                connection.connect(facts.socket)
                connection.sendall(b"SHUTDOWN\r\n")
                connection.recv(1)
        if self._data.acquire(timeout_s=10):
            return ""
        return f"another Redis ({facts}) still uses the data and does not end; stop it first."

    def _start(self) -> str:
        self._server.start(pass_fds=[self._data.fileno()])
        started = time.monotonic()
        if not self._server.wait_ready(START_TIMEOUT_S):
            code = self._server.process.poll() if self._server.process else None
            self._server.stop()
            return f"the server ended with status {code}. Its log says:\n{self._server.log_tail()}"
        pid = self._server.process.pid if self._server.process else 0
        ServerFacts(str(self._server.socket_path), os.getpid(), pid).write(self.folder)
        _log.info("server %d answers after %.2f s", pid, time.monotonic() - started)
        self._started = time.monotonic()
        return ""

    def _tend(self) -> None:
        log = self._server.log_path
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            # The server opens its log anew for each line.
            log.replace(log.with_suffix(".log.1"))
        if self._server.alive and self._server.socket_path.exists():
            return
        if time.monotonic() - self._started > _STEADY_S:
            self._failures = 0
        wait_s = _RESTART_WAITS_S[min(self._failures, len(_RESTART_WAITS_S) - 1)]
        self._failures += 1
        _log.warning("the server is gone; starting it again in %.1f s", wait_s)
        time.sleep(wait_s)
        self._server.stop()
        self._server.socket_path.parent.mkdir(mode=0o700, exist_ok=True)
        if wrong := self._start():
            _log.error("%s", wrong)


def main() -> None:
    """Detach a keeper and wait for its report."""
    folder, socket_path, binary = (Path(argument) for argument in sys.argv[1:])
    receiver, sender = os.pipe()
    if os.fork():
        os.close(sender)
        with os.fdopen(receiver) as reports:
            said = reports.read()
        if said != "ready":
            sys.stderr.write(said or "its keeper died.")
            sys.exit(1)
        return
    os.close(receiver)
    _detach()
    handler = RotatingFileHandler(folder / "keeper.log", maxBytes=_MAX_LOG_BYTES // 4, backupCount=1)
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(asctime)s %(process)d %(message)s")

    def report(wrong: str) -> None:
        os.write(sender, (wrong or "ready").encode())
        os.close(sender)

    with FileLock(folder / "keeper.lock") as lock:
        # Whoever looks whether a keeper lives holds this lock for a moment.
        if lock.acquire(timeout_s=2):
            Keeper(folder, socket_path, binary).run(report)
        else:
            report("")


def _detach() -> None:
    os.setsid()
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)


if __name__ == "__main__":
    main()
