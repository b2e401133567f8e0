"""Where the queue is, for commands that look but start nothing."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from visionpipe.embedded import ServerFacts, data_folder
from visionpipe.errors import QueueUnavailableError
from visionpipe.redis_server import ping, unix_url
from visionpipe.settings import Settings

if TYPE_CHECKING:
    from redis import Redis


class RedisAt(NamedTuple):
    """A Redis that is configured or runs."""

    url: str
    """Where to connect."""
    embedded: bool
    """Whether it is the embedded one."""

    @property
    def label(self) -> str:
        """For people: without the password."""
        if self.embedded:
            return "embedded Redis"
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname or parts.path}{f':{parts.port}' if parts.port else ''}"


def running_embedded(settings: Settings) -> str | None:
    """The URL of the embedded Redis if it runs."""
    facts = ServerFacts.read(data_folder(settings.data_dir))
    if facts is None or facts.host != platform.node() or not ping(Path(facts.socket)):
        return None
    return unix_url(Path(facts.socket))


def find_redis(settings: Settings) -> RedisAt:
    """The configured Redis, or else the embedded one if it runs.

    Raises:
        QueueUnavailableError: None is configured and the embedded one does not run.
    """
    if settings.redis_url is not None:
        return RedisAt(settings.redis_url, embedded=False)
    url = running_embedded(settings)
    if url is None:
        raise QueueUnavailableError(
            "Nothing runs here: no Redis is configured, and the embedded one is not running. "
            "Start it with workers by `visionpipe up MODEL`, or set VISIONPIPE_REDIS_URL to the Redis of your workers."
        )
    return RedisAt(url, embedded=True)


@contextmanager
def connected(url: str) -> Iterator[Redis]:
    """A connection that is closed afterwards."""
    from visionpipe.queue import connect

    with closing(connect(url)) as redis:
        yield redis
