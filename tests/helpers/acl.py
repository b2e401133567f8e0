"""Runs the tests' Redis servers under the ACL of deploy/, as ``VISIONPIPE_TEST_ACL=1`` wishes.

The product gets the user ``visionpipe``, by URL. What a test itself does to a server, such as emptying it, is done as
``operator``: told apart by the file that calls.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.asyncio import Redis as AsyncRedis

from visionpipe import redis_server
from visionpipe.redis_server import RedisServer

WANTED = os.environ.get("VISIONPIPE_TEST_ACL") == "1"
"""Whether the servers of the tests run under the ACL."""

PASSWORDS = {"visionpipe": "tests-worker", "operator": "tests-operator"}
TESTS = str(Path(__file__).parents[1])
ADMINISTRATION = {
    "FLUSHALL", "FLUSHDB", "DBSIZE", "CONFIG", "INFO", "CLIENT", "DEBUG", "KEYS", "SCAN", "SCRIPT", "MEMORY",
    "SHUTDOWN", "SAVE", "BGSAVE", "BGREWRITEAOF", "MONITOR", "ACL", "EVAL", "SLOWLOG", "LATENCY", "COMMAND",
}  # fmt: skip
"""What the product never asks for, and tests do."""

MAY_BE_DENIED = {"info", "config|get"}
"""What `visionpipe doctor` asks, and does without where it gets no answer."""

_denied: list[str] = []


def acl_file(folder: Path) -> Path:
    """Write the ACL of deploy/ with the tests' passwords in it, as its start script does."""
    text = (Path(TESTS).parent / "deploy" / "redis" / "users.acl").read_text()
    for user, mark in (("visionpipe", "@PASSWORD_SHA256@"), ("operator", "@OPERATOR_SHA256@")):
        text = text.replace(mark, hashlib.sha256(PASSWORDS[user].encode()).hexdigest())
    path = folder / "users.acl"
    path.write_text(text)
    return path


def url_as(user: str, socket_path: Path) -> str:
    """The URL of a server for one of the users."""
    return redis_server.unix_url(socket_path).replace("unix://", f"unix://{user}:{PASSWORDS[user]}@")


@contextmanager
def servers_under_acl() -> Iterator[None]:
    """Start every ``RedisServer`` under the ACL while this lasts.

    Raises:
        AssertionError: The product was denied something.
    """
    original = RedisServer.__init__, RedisServer.url, RedisServer.stop, redis_server.ping, redis.Redis.execute_command

    original_async = AsyncRedis.execute_command

    @functools.wraps(original[0])
    def begin(self: RedisServer, binary: Path, socket_path: Path, folder: Path, *, options: Any = ()) -> None:
        options = (*options, "--aclfile", acl_file(folder).name)
        original[0](self, binary, socket_path, folder, options=options)

    def stop(self: RedisServer, *args: Any, **options: Any) -> None:
        if self.alive:
            _note_denied(self)
        original[2](self, *args, **options)

    def execute(self: redis.Redis, *args: Any, **options: Any) -> Any:
        if (path := _administered(self, args)) is None:
            return original[4](self, *args, **options)
        with redis.Redis.from_url(url_as("operator", path)) as operator:
            return original[4](operator, *args, **options)

    async def aexecute(self: AsyncRedis, *args: Any, **options: Any) -> Any:
        if (path := _administered(self, args)) is None:
            return await original_async(self, *args, **options)
        async with AsyncRedis.from_url(url_as("operator", path)) as operator:
            return await original_async(operator, *args, **options)

    RedisServer.__init__ = begin  # type: ignore[method-assign, assignment]
    RedisServer.url = property(lambda self: url_as("visionpipe", self.socket_path))  # type: ignore[method-assign, assignment]
    RedisServer.stop = stop  # type: ignore[method-assign, assignment]
    redis_server.ping = _ping
    redis.Redis.execute_command = execute  # type: ignore[method-assign]
    AsyncRedis.execute_command = aexecute  # type: ignore[method-assign]
    try:
        yield
    finally:
        RedisServer.__init__, RedisServer.url, RedisServer.stop, redis_server.ping, redis.Redis.execute_command = (
            original  # type: ignore[method-assign, assignment]
        )
        AsyncRedis.execute_command = original_async  # type: ignore[method-assign]
    assert not _denied, f"the product was denied something: {sorted(set(_denied))[:10]}"


def _ping(path: Path) -> bool:
    try:
        with redis.Redis.from_url(url_as("operator", path)) as operator:
            return bool(operator.ping())
    except redis.RedisError:
        return False


def _note_denied(server: RedisServer) -> None:
    try:
        with redis.Redis.from_url(url_as("operator", server.socket_path), decode_responses=True) as operator:
            denied = [entry for entry in operator.acl_log(1000) if entry["object"] not in MAY_BE_DENIED]
            _denied.extend(f"{entry['reason']} {entry['object']}" for entry in denied)
    except redis.RedisError:
        return


def _administered(client: Any, args: tuple[Any, ...]) -> Path | None:
    """The server's socket where a test itself asks for something that the product may not do."""
    kwargs = client.connection_pool.connection_kwargs
    asked = str(args[0]).split()[0].upper()
    if asked in ADMINISTRATION and kwargs.get("username") == "visionpipe" and _by_a_test():
        return Path(kwargs["path"])
    return None


def _by_a_test() -> bool:
    frame = sys._getframe(3)
    while frame.f_back is not None and "/redis/" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(TESTS)
