"""The embedded Redis and the configured one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionpipe.cli.checks.base import Check
from visionpipe.cli.redis_at import connected, running_embedded
from visionpipe.errors import EmbeddedRedisError, QueueUnavailableError
from visionpipe.redis_server import OLDEST_VERSION, find_server, server_version
from visionpipe.settings import Settings


def embedded(settings: Settings) -> Check:
    """Whether there is a server program that is new enough."""
    try:
        server = find_server()
    except EmbeddedRedisError as error:
        return Check("embedded Redis", "note" if settings.redis_url else "fail", "no server program", error.message)
    version = ".".join(map(str, server_version(server)))
    running = ", running now" if running_embedded(settings) else ""
    return Check("embedded Redis", "ok", f"{server} {version}{running}")


def configured(settings: Settings) -> Check:
    """Whether the configured Redis answers, is new enough, and keeps what it is given."""
    if settings.redis_url is None:
        return Check("your Redis", "note", "VISIONPIPE_REDIS_URL is not set: the embedded one is used")
    from redis.exceptions import RedisError, ResponseError

    try:
        with connected(settings.redis_url) as redis:
            redis.ping()
            try:
                facts: dict[Any, Any] = {}
                facts.update(redis.info())
                facts.update(redis.config_get("maxmemory-policy"))
            except ResponseError as error:
                # A worker's account need not be allowed to ask.
                return Check("your Redis", "ok", f"answers; {error}")
    except (QueueUnavailableError, RedisError) as error:
        return Check("your Redis", "fail", str(error), "Start it, or mend VISIONPIPE_REDIS_URL.")
    return judge(facts)


def judge(facts: Mapping[Any, Any]) -> Check:
    """Judge a server by what INFO and CONFIG GET say."""
    version, policy = str(facts["redis_version"]), str(facts.get("maxmemory-policy", "unknown policy"))
    found = f"version {version}, {policy}, AOF {'on' if facts.get('aof_enabled') else 'off'}"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        return Check("your Redis", "fail", found, "Upgrade it to 6.2 or newer.")
    if policy != "noeviction":
        return Check("your Redis", "warn", found, "Set maxmemory-policy noeviction, or a full Redis drops jobs.")
    if not facts.get("aof_enabled"):
        return Check("your Redis", "warn", found, "Set appendonly yes, or queued jobs are lost when it restarts.")
    return Check("your Redis", "ok", found)
