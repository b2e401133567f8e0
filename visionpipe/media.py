"""Files by reference: named folders that client and workers both mount, and files of the client's own."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from visionpipe.errors import (
    ImageChangedError,
    ImageNotFoundError,
    ImageTooLargeError,
    TooManyFilesError,
    UnknownMediaRootError,
    VisionPipeError,
)
from visionpipe.schemas.images import MediaImage

# Without O_NONBLOCK, opening a FIFO that nobody writes to would hang the thread for ever.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_NONE_LEFT = (errno.EMFILE, errno.ENFILE)

FOLDER_FRESH_S = 1.0
"""For how long a folder is taken to lie where it was last seen; a worker checks every file it opens."""


def read_file(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a file of the client's own; symbolic links are followed.

    Raises:
        ImageNotFoundError: It is missing, unreadable or no regular file.
        ImageTooLargeError: It has more than ``max_bytes`` bytes.
        ImageChangedError: It was written to while it was read.
        TooManyFilesError: This process has no descriptor left.
    """
    try:
        fd = os.open(path, _READ)
    except (OSError, ValueError) as error:
        raise unopened(repr(os.fspath(path)), error) from error
    try:
        return _read_all(fd, repr(os.fspath(path)), max_bytes)
    finally:
        os.close(fd)


class MediaRoots:
    """The media roots that this process mounts: makes references to files below them, and reads them.

    Args:
        roots: Name → folder.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self._roots = {name: Path(root).expanduser() for name, root in roots.items()}
        # With a separator at the end, so that no folder seems to lie below another whose name begins like its own.
        self._prefixes = {
            name: f"{os.path.realpath(root).rstrip(os.sep)}{os.sep}" for name, root in self._roots.items()
        }
        self._folder = ("", float("-inf"), "")

    @property
    def names(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._roots)

    def reference(
        self, path: str | os.PathLike[str], name: str | None = None, *, among: Collection[str] | None = None
    ) -> MediaImage | None:
        """Name a file by root and relative path; ``None`` when it lies below no root or its name is not UTF-8.

        Args:
            path: The file.
            name: The caller's word for it.
            among: The roots that may be used; unset means all.

        Raises:
            ImageNotFoundError: The file is missing or is no regular file.
        """
        spelled = os.fspath(path)
        if "\0" in spelled:
            return None
        # A worker follows no links below a root, so the reference must not contain any.
        real, status = self._resolve(spelled)
        inside = [
            (prefix, root)
            for root, prefix in self._prefixes.items()
            if (among is None or root in among) and real.startswith(prefix)
        ]
        if not inside:
            return None
        prefix, root = max(inside, key=lambda pair: len(pair[0]))
        relative = real[len(prefix) :].replace(os.sep, "/")
        if not _is_text(relative) or len(relative) > 4096:
            return None
        try:
            status = status or os.stat(real)  # noqa: PTH116 - a Path for each file of a folder costs more than its stat
        except OSError as error:
            raise ImageNotFoundError(f"{spelled!r} cannot be opened: {_reason(error)}") from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageNotFoundError(f"{spelled!r} is not a regular file")
        return MediaImage(root=root, path=relative, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, name=name)

    def _resolve(self, path: str) -> tuple[str, os.stat_result | None]:
        """Resolve all links of a path; for a plain file with its status, which is read on the way."""
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            return os.path.realpath(path), None
        if not stat.S_ISREG(status.st_mode):
            return os.path.realpath(path), None
        folder, _, last = path.rpartition(os.sep)
        # The system is asked about every part of a path, and the files of a folder share all but the last.
        known, fresh_until, real = self._folder
        now = time.monotonic()
        if folder != known or now > fresh_until:
            real = os.path.realpath(f"{folder}{os.sep}" if folder or path.startswith(os.sep) else os.curdir)
            self._folder = (folder, now + FOLDER_FRESH_S, real)
        return os.path.join(real, last), status  # noqa: PTH118 - as above

    def read(self, ref: MediaImage, *, max_bytes: int, folders: Folders | None = None) -> bytes:
        """Read a referenced file, following no symbolic link below the root.

        Args:
            ref: The file.
            max_bytes: Largest file to read.
            folders: Those that are open already; unset opens the file's own for this once.

        Raises:
            UnknownMediaRootError: The root is not mounted here, or the path leaves it.
            ImageNotFoundError: The file is missing, unreadable or no regular file.
            ImageTooLargeError: It has more than ``max_bytes`` bytes.
            ImageChangedError: Size or modification time are not the submitted ones.
            TooManyFilesError: This process has no descriptor left.
        """
        root = self._roots.get(ref.root)
        if root is None:
            raise UnknownMediaRootError(
                f"media root {ref.root!r} is not mounted by this worker; it mounts {self.names or 'none'}",
                root=ref.root,
            )
        if folders is None:
            with Folders() as own:
                return self.read(ref, max_bytes=max_bytes, folders=own)
        shown = f"{ref.path!r} below media root {ref.root!r}"
        fd = folders.open_file(root, ref.path, shown)
        try:
            return _read_all(fd, shown, max_bytes, (ref.size_bytes, ref.mtime_ns))
        finally:
            os.close(fd)


MAX_DEPTH = 100
"""Folders between a root and a file; each costs a call of the system and, for a moment, a descriptor."""
MAX_OPEN = 32
"""Folders that one thread has open at once; a process may have some 1,000 files open in all."""
TINY_BYTES = 2**16
"""Files below a root of up to so many bytes are looked at once, after they have been read, if they are settled."""
SETTLED_NS = 2_000_000_000
"""A file that nothing has changed for so long was not being written when it was read a moment ago."""


class Folders:
    """Folders that stay open while several files are read from them; for one thread, and for moments.

    Opening each file's folders anew costs more than reading a tiny file: every call of the system also gives another
    thread its turn to run Python.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[Path, str], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def open_file(self, root: Path, relative: str, shown: str) -> int:
        """Open a file below a root, following no link below that; the descriptor is the caller's."""
        if "\0" in relative or any(part in ("", ".", "..") for part in relative.split("/")):
            raise UnknownMediaRootError(f"{shown} is not a plain relative path; it must not leave its root")
        try:
            return self._open_below(root, relative)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnknownMediaRootError(f"{shown} is a symbolic link; workers follow none below a root") from error
            raise unopened(shown, error) from error

    def _open_below(self, root: Path, relative: str) -> int:
        folder, _, name = relative.rpartition("/")
        try:
            return os.open(name, _READ | _NOFOLLOW, dir_fd=self._folder(root, folder))
        except OSError as error:
            if error.errno not in _NONE_LEFT:
                raise
        self._close()
        return os.open(name, _READ | _NOFOLLOW, dir_fd=self._folder(root, folder))

    def _folder(self, root: Path, relative: str) -> int:
        known = self._open.get((root, relative))
        if known is not None:
            return known
        parts = relative.split("/") if relative else []
        if len(parts) > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, f"it lies more than {MAX_DEPTH} folders deep")
        fd = self._step(root, "", lambda: os.open(root, _READ | _FOLDER))
        for depth, name in enumerate(parts, start=1):
            fd = self._step(root, "/".join(parts[:depth]), partial(_open_folder, name, fd))
        return fd

    def _step(self, root: Path, relative: str, make: Callable[[], int]) -> int:
        fd = self._open.get((root, relative))
        if fd is None:
            fd = make()
            if len(self._open) >= MAX_OPEN:
                self._close()
            self._open[root, relative] = fd
        return fd

    def _close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


def unopened(shown: str, error: OSError | ValueError) -> VisionPipeError:
    """Say why a file could not be opened."""
    if isinstance(error, OSError) and error.errno in _NONE_LEFT:
        return TooManyFilesError(
            f"{shown} cannot be opened: {_reason(error)}. Try again, or raise the limit (ulimit -n, LimitNOFILE=)."
        )
    return ImageNotFoundError(f"{shown} cannot be opened: {_reason(error)}")


def _open_folder(name: str, parent: int) -> int:
    return os.open(name, _READ | _NOFOLLOW | _FOLDER, dir_fd=parent)


def _read_all(fd: int, shown: str, max_bytes: int, expected: tuple[int, int] | None = None) -> bytes:
    # Each call of the system lets another thread run Python: one less of them counts for a tiny image.
    tiny = expected if expected is not None and expected[0] <= min(TINY_BYTES, max_bytes) else None
    if tiny is not None and (data := _read_unchanged(fd, tiny)) is not None:
        return data
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        raise ImageNotFoundError(f"{shown} is not a regular file")
    found = (before.st_size, before.st_mtime_ns)
    if expected is not None and found != expected:
        raise ImageChangedError(
            f"{shown} has changed since it was submitted: size and mtime_ns were {expected}, are {found}"
        )
    if before.st_size > max_bytes:
        raise ImageTooLargeError(f"{shown} has {before.st_size} bytes; the limit is {max_bytes}", limit=max_bytes)
    try:
        # One byte more than expected shows a file that grows under our hands.
        data = _read_up_to(fd, before.st_size + 1)
    except OSError as error:
        raise ImageNotFoundError(f"{shown} cannot be read: {_reason(error)}") from error
    after = os.fstat(fd)
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != found:
        raise ImageChangedError(f"{shown} was written to while it was read")
    return data


def _read_unchanged(fd: int, expected: tuple[int, int]) -> bytes | None:
    """Read a file that is what it was when it was submitted; ``None`` if it is not, or where that cannot be told."""
    try:
        data = os.pread(fd, expected[0] + 1, 0)
    except OSError:
        return None
    after = os.fstat(fd)
    is_it = stat.S_ISREG(after.st_mode) and (after.st_size, after.st_mtime_ns) == expected
    # Whoever writes to a file may set its modification time back, but not the time of that.
    is_settled = time.time_ns() - after.st_ctime_ns > SETTLED_NS
    return data if is_it and is_settled and len(data) == expected[0] else None


def _read_up_to(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    if not data or len(data) >= size - 1:
        return data
    # A read may give less than there is, for example over a network.
    parts, left = [data], size - len(data)
    while left and (data := os.read(fd, left)):
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
