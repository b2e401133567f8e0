"""One operation of the queue as a value, so that blocking and asyncio callers share everything but the sending."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from visionpipe.errors import QueueFullError, QueueUnavailableError, VisionPipeError
from visionpipe.queue.scripts import Script

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

T = TypeVar("T")


@dataclass(frozen=True)
class Call(Generic[T]):
    """A script, its arguments and what to make of the answer."""

    script: Script
    args: tuple[Any, ...]
    parse: Callable[[Any], T]
    sets: Mapping[str, bytes] = field(default_factory=dict)
    """Redis keys written in the same round trip, before the script."""
    set_ttl_ms: int = 0
    """Life of those keys."""


def connect(url: str) -> Redis:
    """Open a blocking connection pool; binary, with timeouts so that a dead peer is noticed.

    Raises:
        QueueUnavailableError: The URL cannot be used.
    """
    from redis import Redis

    redis: Redis = _from_url(Redis, url)
    return redis


def aconnect(url: str) -> AsyncRedis:
    """Open an asyncio connection pool; otherwise as ``connect``."""
    from redis.asyncio import Redis

    redis: Redis = _from_url(Redis, url)
    return redis


def _from_url(factory: Any, url: str) -> Any:
    options: dict[str, Any] = {"socket_timeout": 15, "socket_connect_timeout": 5, "health_check_interval": 10}
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    if url.startswith("rediss:") and "ssl_cert_reqs" not in url:
        options["ssl_cert_reqs"] = "required"
    try:
        return factory.from_url(url, protocol=2, decode_responses=False, **options)
    except ValueError as error:
        raise QueueUnavailableError(
            f"Expected a redis://, rediss:// or unix:// URL, got {url!r}: {error}. Mend VISIONPIPE_REDIS_URL."
        ) from error


def run(redis: Redis, call: Call[T]) -> T:
    """Perform a call.

    Raises:
        QueueUnavailableError: Redis cannot be reached, or refuses.
        VisionPipeError: What the call itself answers, such as ``QueueFullError``.
    """
    from redis.exceptions import NoScriptError, RedisError

    try:
        try:
            answer = _pipeline(redis, call).execute()[-1]
        except NoScriptError:
            redis.script_load(call.script.text)
            answer = _pipeline(redis, call).execute()[-1]
    except RedisError as error:
        raise refusal(error) from error
    return call.parse(answer)


async def arun(redis: AsyncRedis, call: Call[T]) -> T:
    """Perform a call from asyncio; otherwise as ``run``."""
    from redis.exceptions import NoScriptError, RedisError

    try:
        try:
            answer = (await _pipeline(redis, call).execute())[-1]
        except NoScriptError:
            await redis.script_load(call.script.text)
            answer = (await _pipeline(redis, call).execute())[-1]
    except RedisError as error:
        raise refusal(error) from error
    return call.parse(answer)


def _pipeline(redis: Any, call: Call[Any]) -> Any:
    pipeline = redis.pipeline(transaction=False)
    for key, data in call.sets.items():
        pipeline.set(key, data, px=call.set_ttl_ms)
    pipeline.evalsha(call.script.sha, 0, *call.args)
    return pipeline


def refusal(error: Exception) -> VisionPipeError:
    """Make our error of one of redis-py's."""
    if "used memory > 'maxmemory'" in str(error):
        return QueueFullError(
            "Redis has reached its memory limit and takes no more work. Wait for workers to catch up, "
            "or raise maxmemory.",
            retry_after_s=5.0,
        )
    return QueueUnavailableError(
        f"Expected an answer from Redis, got {type(error).__name__}: {error}. "
        "Check that the server runs and that VISIONPIPE_REDIS_URL points to it."
    )
