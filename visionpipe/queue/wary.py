"""Blocking connections that mistrust each other once one of them has gone silent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakSet

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as SilentError
from redis.retry import Retry

T = TypeVar("T")

_pools: WeakSet[ConnectionPool] = WeakSet()


class WaryRetry(Retry):
    """Tries once; a timeout closes every idle connection of this process.

    A firewall or a failover silences all connections together. Each that is found out by itself costs its user a whole
    timeout, one after the other.
    """

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 0)

    def call_with_retry(self, do: Callable[[], T], fail: Callable[..., Any], *args: Any, **options: Any) -> T:
        """See ``redis.retry.Retry``."""
        try:
            return super().call_with_retry(do, fail, *args, **options)
        except SilentError:
            for pool in list(_pools):
                pool.disconnect(inuse_connections=False)
            raise


def watch(pool: ConnectionPool) -> None:
    """Include a pool's idle connections among those that are closed."""
    _pools.add(pool)
