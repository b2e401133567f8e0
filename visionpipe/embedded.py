"""An embedded Redis: a real server that starts when first needed, is shared, and goes when nobody uses it.

Every user of a data directory holds a shared lock; one keeper process (``visionpipe.embedded_server``) runs the
server, restarts it when it dies, and ends it five seconds after the last lock is let go.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from visionpipe.errors import EmbeddedRedisError
from visionpipe.redis_server import find_server, ping, unix_url
from visionpipe.settings import Settings

MAX_SOCKET_PATH = 100
"""Bytes of a socket's path: the kernel takes 107, macOS 103."""
START_TIMEOUT_S = 120.0
"""How long the server may load its data."""

_WATCH_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerFacts:
    """What a keeper writes down about the server it keeps."""

    socket: str
    """Path of the server's socket; the runtime folder of another session may differ from ours."""
    keeper: int
    """Process id of the keeper."""
    server: int
    """Process id of the server."""
    host: str = platform.node()
    """The machine it runs on; a data directory may be on a shared disk, its socket is not."""

    def write(self, folder: Path) -> None:
        """Replace the facts in a data folder in one step."""
        draft = folder / "server.json.new"
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(folder / "server.json")

    @classmethod
    def read(cls, folder: Path) -> ServerFacts | None:
        """Read the facts; ``None`` when there are none."""
        try:
            return cls(**json.loads((folder / "server.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None


@contextlib.contextmanager
def embedded_redis(settings: Settings) -> Iterator[str]:
    """Use the embedded Redis of ``settings.data_dir``, starting it if nobody has.

    While the context lasts the server is watched: should it and its keeper be killed, they come back.

    Yields:
        A ``unix://`` URL.

    Raises:
        EmbeddedRedisError: No server program, an unusable data directory, or a server that does not start.
    """
    if sys.platform == "win32":
        raise EmbeddedRedisError(
            "The embedded Redis does not run on Windows. Set VISIONPIPE_REDIS_URL to a Redis that is already running."
        )
    # Windows has no flock, and this module must import there to say so.
    from visionpipe.locks import FileLock

    folder = _prepare(settings.data_dir)
    with FileLock(folder / "users.lock") as users:
        # A keeper that is just ending holds this lock until its server is gone.
        try:
            held = users.acquire(shared=True, timeout_s=START_TIMEOUT_S)
        except OSError as error:
            raise EmbeddedRedisError(
                f"The disk of {folder} has no file locks ({error.strerror}). Set VISIONPIPE_DATA_DIR to a local folder."
            ) from error
        if not held:
            raise EmbeddedRedisError(f"The embedded Redis in {folder} has been stopping for {START_TIMEOUT_S:.0f} s.")
        facts = _ensure_keeper(folder)
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(folder, ended), name="embedded-redis-watch", daemon=True)
        watcher.start()
        try:
            yield unix_url(Path(facts.socket))
        finally:
            ended.set()
            watcher.join()


def data_folder(data_dir: Path) -> Path:
    """The folder of the embedded Redis inside a data directory.

    Raises:
        EmbeddedRedisError: The directory lies in the home of a user who has none.
    """
    try:
        return (data_dir.expanduser() / "redis").absolute()
    except RuntimeError as error:
        raise EmbeddedRedisError(
            f"{data_dir} cannot be found: {error} Set VISIONPIPE_DATA_DIR to a folder that you can write to."
        ) from error


def socket_path(folder: Path) -> Path:
    """Choose where the server's socket lies: private, short enough, the same for every caller of one session.

    Raises:
        EmbeddedRedisError: The folder for it belongs to somebody else.
    """
    name = f"visionpipe-{os.getuid()}-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}"
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - checked below
        path = Path(base) / name / "redis.sock"
        if base and os.access(base, os.W_OK | os.X_OK) and len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            break
    else:
        raise EmbeddedRedisError("No folder for the server's socket: neither XDG_RUNTIME_DIR nor /tmp can be written.")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    found = path.parent.lstat()
    if path.parent.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise EmbeddedRedisError(f"{path.parent} must be a folder that only you can enter. Remove it and try again.")
    return path


def _prepare(data_dir: Path) -> Path:
    folder = data_folder(data_dir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "users.lock").touch(mode=0o600)
    except OSError as error:
        raise EmbeddedRedisError(
            f"The embedded Redis cannot write to {folder}: {error.strerror}. "
            "Set VISIONPIPE_DATA_DIR to a folder that you can write to, or VISIONPIPE_REDIS_URL to a running Redis."
        ) from error
    return folder


def _ensure_keeper(folder: Path) -> ServerFacts:
    from visionpipe.locks import FileLock

    until = time.monotonic() + START_TIMEOUT_S
    with FileLock(folder / "start.lock") as start:
        if not start.acquire(timeout_s=START_TIMEOUT_S):
            raise EmbeddedRedisError(f"Another process has been starting the embedded Redis in {folder} for too long.")
        while time.monotonic() < until:
            if not _keeper_lives(folder):
                _launch(folder)
            facts = ServerFacts.read(folder)
            if facts and facts.host != platform.node():
                raise EmbeddedRedisError(
                    f"{folder} is in use by the embedded Redis of another machine, {facts.host}. "
                    "Set VISIONPIPE_DATA_DIR to a folder of this machine, "
                    "or VISIONPIPE_REDIS_URL to a Redis that both can reach."
                )
            if facts and ping(Path(facts.socket)):
                return facts
            time.sleep(0.05)
    raise EmbeddedRedisError(f"The embedded Redis in {folder} did not answer within {START_TIMEOUT_S:.0f} s.")


def _keeper_lives(folder: Path) -> bool:
    from visionpipe.locks import FileLock

    with FileLock(folder / "keeper.lock") as lock:
        return not lock.acquire(shared=True)


def _launch(folder: Path) -> None:
    # The launched process returns once its detached child has a server that answers, or an error to report.
    command = [sys.executable, "-P", "-m", "visionpipe.embedded_server"]
    command += [str(folder), str(socket_path(folder)), str(find_server())]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EmbeddedRedisError(f"The embedded Redis in {folder} did not start in {START_TIMEOUT_S:.0f} s.") from error
    if done.returncode != 0:
        raise EmbeddedRedisError(f"The embedded Redis in {folder} did not start: {done.stderr.strip()}")


def _watch(folder: Path, ended: threading.Event) -> None:
    from visionpipe.locks import FileLock

    while not ended.wait(_WATCH_S):
        try:
            with FileLock(folder / "start.lock") as start:
                # Whoever holds this lock is already looking after the keeper.
                lost = start.acquire() and not _keeper_lives(folder)
            if lost:
                _log.warning("The keeper of the embedded Redis in %s is gone; starting another", folder)
                _ensure_keeper(folder)
        except (EmbeddedRedisError, OSError) as error:
            _log.error("The embedded Redis in %s cannot be kept: %s", folder, error)
