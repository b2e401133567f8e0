"""The Redis of deploy/, started by its own script, with its own settings and ACL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis

from visionpipe.redis_server import find_server

DEPLOY = Path(__file__).parents[2] / "deploy"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def deployed_redis(
    folder: Path,
    becomes: Callable[..., bool],
    password: str,
    operator: str,
    *,
    server: Path | None = None,
    options: tuple[str, ...] = (),
    url: str = "redis://operator:{operator}@127.0.0.1:{port}",
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Start it while the context lasts; gives its port.

    Args:
        folder: Where it may write.
        becomes: Waits for a condition.
        password: Of the user ``visionpipe``.
        operator: Password of the user ``operator``.
        server: The program; unset takes the one that the product would.
        options: For the server, with ``{port}`` for its port; unset listens plainly.
        url: Where the operator asks whether it serves.
        env: More variables for the script.
    """
    (folder / "bin").mkdir()
    (folder / "bin" / "redis-server").symlink_to(server or find_server())
    port = free_port()
    listening = [word.format(port=port) for word in options or ("--port", "{port}")]
    # Whoever the server becomes may not be let into the folder of our sources.
    conf = shutil.copy(DEPLOY / "redis" / "redis.conf", folder / "redis.conf")
    conf.chmod(0o644)
    command = ["sh", str(DEPLOY / "redis" / "start.sh"), str(conf)]
    command += [str(DEPLOY / "redis" / "users.acl"), "--bind", "127.0.0.1", *listening]
    env = {**(env or {}), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(folder)}
    env |= {"REDIS_PASSWORD": password, "REDIS_OPERATOR_PASSWORD": operator}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log)

    def answers() -> bool:
        try:
            with redis.Redis.from_url(url.format(operator=operator, port=port)) as connection:
                return bool(connection.ping())
        except redis.ConnectionError:
            return False

    try:
        assert becomes(answers, within_s=20), (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        status = process.wait(20)
    assert status == 0, (folder / "log").read_text()
