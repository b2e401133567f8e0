"""One operation of the queue as a value, so that blocking and asyncio callers share everything but the sending."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from visionpipe.errors import QueueFullError, QueueUnavailableError, VisionPipeError
from visionpipe.queue.scripts import Script
from visionpipe.redis_url import check_redis_url

if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

T = TypeVar("T")

SILENT_S = 10
"""A server that has not answered for so long is taken for dead."""


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

    Commands that block must do so for less than ``SILENT_S``.

    Raises:
        QueueUnavailableError: The URL cannot be used.
    """
    from redis import Redis

    from visionpipe.queue.wary import WaryRetry, watch

    redis: Redis = _from_url(Redis, url, retry=WaryRetry())
    watch(redis.connection_pool)
    return redis


def aconnect(url: str) -> AsyncRedis:
    """Open an asyncio connection pool; otherwise as ``connect``."""
    from redis.asyncio import Redis

    redis: Redis = _from_url(Redis, url)
    return redis


def _from_url(factory: Any, url: str, **options: Any) -> Any:
    options |= {"socket_timeout": SILENT_S, "socket_connect_timeout": 5, "health_check_interval": 10}
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    try:
        check_redis_url(url)
        if url.startswith("rediss:") and "ssl_cert_reqs" not in url:
            options["ssl_cert_reqs"] = "required"
        return factory.from_url(url, protocol=2, decode_responses=False, **options)
    except ValueError as error:
        raise QueueUnavailableError(
            f"Expected a redis://, rediss:// or unix:// URL, got one that cannot be used: {error}. "
            "Mend VISIONPIPE_REDIS_URL."
        ) from None


def run(redis: Redis, call: Call[T]) -> T:
    """Perform a call.

    Raises:
        QueueUnavailableError: Redis cannot be reached, or refuses.
        VisionPipeError: What the call itself answers, such as ``QueueFullError``.
    """
    from redis.exceptions import RedisError

    spent: set[str] = set()
    load = False
    while True:
        try:
            if load:
                redis.script_load(call.script.text)
            answer = _pipeline(redis, call).execute()[-1] if call.sets else _alone(redis, call)
            break
        except RedisError as error:
            load = again(error, spent)
    return call.parse(answer)


async def arun(redis: AsyncRedis, call: Call[T]) -> T:
    """Perform a call from asyncio; otherwise as ``run``."""
    from redis.exceptions import RedisError

    spent: set[str] = set()
    load = False
    while True:
        try:
            if load:
                await redis.script_load(call.script.text)
            answer = (await _pipeline(redis, call).execute())[-1] if call.sets else await _alone(redis, call)
            break
        except RedisError as error:
            load = again(error, spent)
    return call.parse(answer)


def again(error: Exception, spent: set[str]) -> bool:
    """Allow one more try for each remedy, or raise; says whether the script must be loaded first."""
    from redis.exceptions import ConnectionError as LostError
    from redis.exceptions import NoScriptError
    from redis.exceptions import TimeoutError as SilentError

    # A connection may have died long before this call; every call may safely be made again.
    remedies = {"script": (NoScriptError,), "connection": (LostError, SilentError)}
    remedy = next((name for name, kind in remedies.items() if isinstance(error, kind) and name not in spent), None)
    if remedy is None:
        raise refusal(error) from error
    spent.add(remedy)
    return remedy == "script"


def _alone(redis: Any, call: Call[Any]) -> Any:
    # A pipeline of one takes redis-py half as long again.
    return redis.evalsha(call.script.sha, 0, *call.args)


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
        f"Expected an answer from Redis, got {type(error).__name__}: {str(error).rstrip('.')}. "
        "Check that the server runs and that VISIONPIPE_REDIS_URL points to it."
    )
