"""Pixels and artifacts: in Redis by default, behind any fsspec URL instead.

Keys are those of the references: ``blob:<job>:<i>``, ``upload:<sha256>`` and ``artifact:<sha256>``.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from visionpipe.errors import QueueUnavailableError, SettingsError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.settings import Settings

if TYPE_CHECKING:
    import redis

_KEY = re.compile(r"(?P<kind>blob|upload|artifact)(?P<parts>(:[A-Za-z0-9][A-Za-z0-9_.-]{0,127}){1,2})")
_EXPIRY = ".expires"
_TEMPORARY = ".tmp-"
_ABANDONED_S = 86400.0
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# These write a whole object or nothing; everything else gets a temporary name and a rename.
_ATOMIC = {"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss"}


class Store(Protocol):
    """Where encoded images and artifacts lie; for any thread. Each method may raise ``QueueUnavailableError``."""

    external: bool
    """Whether the bytes lie outside Redis, so that no Lua script can delete them."""

    def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """Write a value, whole or not at all; an old value of the key is replaced."""

    def get(self, key: str) -> bytes | None:
        """Read a value; ``None`` when it expired or never was."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove values; missing ones are no error."""

    def touch(self, key: str, ttl_s: float) -> None:
        """Give a value ``ttl_s`` more seconds from now; a missing one is no error."""

    def delete_job(self, job: str) -> None:
        """Remove all blobs of a job; uploads and artifacts stay."""

    def gc(self) -> int:
        """Remove what has expired and say how many values that was."""


def check_key(key: str) -> tuple[str, list[str]]:
    """Split a key into its kind and its parts.

    Raises:
        ValueError: The key is none of ours, or could leave its folder.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"expected a key like blob:<job>:<i>, upload:<sha256> or artifact:<sha256>, got {key!r}")
    return match["kind"], match["parts"][1:].split(":")


@contextmanager
def _reachable() -> Iterator[None]:
    from redis.exceptions import ConnectionError as LostError
    from redis.exceptions import OutOfMemoryError
    from redis.exceptions import TimeoutError as SlowError

    try:
        yield
    except (LostError, SlowError) as error:
        raise QueueUnavailableError(f"Redis cannot be reached for an image: {error}") from error
    except OutOfMemoryError as error:
        raise QueueUnavailableError("Redis has reached its memory limit and takes no more images for now.") from error


class RedisStore:
    """Values as plain Redis strings with a TTL, under ``vp:<key>``."""

    external = False

    def __init__(self, redis: redis.Redis) -> None:
        self._redis = redis

    def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """See ``Store.put``."""
        check_key(key)
        with _reachable():
            self._redis.set(f"vp:{key}", data, px=max(1, int(ttl_s * 1000)))

    def get(self, key: str) -> bytes | None:
        """See ``Store.get``."""
        check_key(key)
        with _reachable():
            data: Any = self._redis.get(f"vp:{key}")
        return None if data is None else bytes(data)

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        names = [f"vp:{key}" for key in keys]
        if names:
            with _reachable():
                self._redis.unlink(*names)

    def touch(self, key: str, ttl_s: float) -> None:
        """See ``Store.touch``."""
        with _reachable():
            self._redis.pexpire(f"vp:{key}", max(1, int(ttl_s * 1000)))

    def delete_job(self, job: str) -> None:
        """See ``Store.delete_job``; a job that ends in Redis has lost its blobs already."""
        check_key(f"blob:{job}")
        with _reachable():
            names = list(self._redis.scan_iter(match=f"vp:blob:{job}:*", count=1000))
            if names:
                self._redis.unlink(*names)

    def gc(self) -> int:
        """Redis expires its keys by itself: always 0."""
        return 0


class FsspecStore:
    """Values as files below any fsspec URL, each with a small ``.expires`` file beside it.

    The files are the plain bytes, so that an artifact can be opened by any tool.

    Args:
        url: For example ``file:///mnt/pixels``, ``memory://vp`` or ``s3://bucket/prefix``.

    Raises:
        SettingsError: The URL's protocol is unknown, or its package is not installed.
    """

    external = True

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            # Another process writes and deletes too: what a listing said a minute ago means nothing.
            self._fs, root = url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            # The URL itself may hold a password.
            scheme = url.partition(":")[0]
            raise SettingsError(f"VISIONPIPE_STORE_URL, a {scheme!r} URL, cannot be opened: {error}") from error
        self._root = str(root).rstrip("/")
        names = (self._fs.protocol,) if isinstance(self._fs.protocol, str) else self._fs.protocol
        self._atomic = not _ATOMIC.isdisjoint(names)

    def put(self, key: str, data: bytes, ttl_s: float) -> None:
        """See ``Store.put``."""
        path = self._path(key)
        with _usable():
            if not self._atomic:
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            # The expiry goes first: gc never meets a value whose time it does not know.
            self._write(path + _EXPIRY, _deadline(ttl_s))
            self._write(path, data)

    def get(self, key: str) -> bytes | None:
        """See ``Store.get``."""
        path = self._path(key)
        # One call for both: object stores fetch them side by side.
        with _usable():
            found = self._fs.cat([path, path + _EXPIRY], on_error="return")
        data, expiry = (found.get(name) for name in (path, path + _EXPIRY))
        for answer in (data, expiry):
            if isinstance(answer, Exception) and not isinstance(answer, _MISSING):
                with _usable():
                    raise answer
        if not isinstance(data, bytes) or not isinstance(expiry, bytes) or _expired(expiry):
            return None
        return data

    def delete(self, keys: Iterable[str]) -> None:
        """See ``Store.delete``."""
        paths = [self._path(key) for key in keys]
        with _usable():
            for path in paths:
                self._remove(path)

    def touch(self, key: str, ttl_s: float) -> None:
        """See ``Store.touch``."""
        path = self._path(key)
        with _usable():
            if self._fs.exists(path):
                self._write(path + _EXPIRY, _deadline(ttl_s))

    def delete_job(self, job: str) -> None:
        """See ``Store.delete_job``."""
        path = self._path(f"blob:{job}")
        with _usable(), suppress(FileNotFoundError):
            self._fs.rm(path, recursive=True)

    def gc(self) -> int:
        """See ``Store.gc``; also removes temporary files that a crash left more than a day ago."""
        removed = 0
        with _usable():
            paths = list(self._fs.find(self._root))
        for path in paths:
            with _usable(), suppress(FileNotFoundError):
                if _TEMPORARY in path:
                    self._drop_abandoned(path)
                elif path.endswith(_EXPIRY) and _expired(self._fs.cat_file(path)):
                    removed += self._collect(path.removesuffix(_EXPIRY))
        return removed

    def _path(self, key: str) -> str:
        kind, parts = check_key(key)
        folders = parts if kind == "blob" else [parts[0][:2], *parts]
        return "/".join([self._root, kind, *folders])

    def _write(self, path: str, data: bytes) -> None:
        if self._atomic:
            self._fs.pipe_file(path, data)
            return
        temporary = f"{path}{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            self._fs.pipe_file(temporary, data)
            self._fs.mv(temporary, path)
        except BaseException:
            with suppress(OSError):
                self._fs.rm_file(temporary)
            raise

    def _remove(self, path: str) -> None:
        for name in (path, path + _EXPIRY):
            with suppress(FileNotFoundError):
                self._fs.rm_file(name)

    def _collect(self, path: str) -> bool:
        """Remove a value that has expired, unless somebody is just storing it anew, which begins with its expiry."""
        expiry = self._take(path + _EXPIRY)
        if not _expired(self._fs.cat_file(expiry)):
            self._fs.mv(expiry, path + _EXPIRY)
            return False
        with suppress(FileNotFoundError):
            data = self._take(path)
            if self._fs.exists(path + _EXPIRY):
                self._fs.mv(data, path)
            else:
                self._fs.rm_file(data)
        self._fs.rm_file(expiry)
        return True

    def _take(self, path: str) -> str:
        taken = f"{path}{_TEMPORARY}{uuid.uuid4().hex}"
        self._fs.mv(path, taken)
        return taken

    def _drop_abandoned(self, path: str) -> None:
        if time.time() - self._fs.modified(path).timestamp() > _ABANDONED_S:
            self._fs.rm_file(path)


@contextmanager
def _usable() -> Iterator[None]:
    """Make one error of what file systems raise, some of them those of their network library."""
    try:
        yield
    except Exception as error:
        raise QueueUnavailableError(
            f"Expected a store that can be used behind VISIONPIPE_STORE_URL, got {type(error).__name__}: {error}."
        ) from error


def _deadline(ttl_s: float) -> bytes:
    return f"{time.time() + ttl_s:.3f}".encode()


def _expired(expiry: bytes) -> bool:
    return float(expiry) <= time.time()


def external_store(settings: Settings) -> FsspecStore | None:
    """Open the store that the settings name outside Redis, if they name one."""
    return None if settings.store_url is None else FsspecStore(settings.store_url)


def open_store(settings: Settings, redis: redis.Redis) -> Store:
    """Open the store that the settings name: behind ``store_url``, or in Redis.

    Raises:
        SettingsError: ``store_url`` cannot be opened.
    """
    return external_store(settings) or RedisStore(redis)


def put_artifact(store: Store, data: bytes, media_type: str, settings: Settings) -> ArtifactRef:
    """Store a large output under the hash of its bytes; equal outputs share one value."""
    key = f"artifact:{hashlib.sha256(data).hexdigest()}"
    store.put(key, data, settings.artifact_ttl_s)
    return ArtifactRef(key=key, media_type=media_type, size_bytes=len(data))
