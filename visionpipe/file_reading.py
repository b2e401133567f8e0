"""Reading files whole, and refusing what is none, is too large or changes meanwhile."""

from __future__ import annotations

import errno
import os
import stat
import time

from visionpipe.errors import (
    ImageChangedError,
    ImageNotFoundError,
    ImageTooLargeError,
    TooManyFilesError,
    VisionPipeError,
)

# Without O_NONBLOCK, opening a FIFO that nobody writes to would hang the thread for ever.
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
NONE_LEFT = (errno.EMFILE, errno.ENFILE)

TINY_BYTES = 2**16
"""Files below a root of up to so many bytes are looked at once, after they have been read, if they are settled."""
SETTLED_NS = 60_000_000_000
"""A file that nothing has changed for so long was not being written when it was read a moment ago: a minute, for clocks
of a file server that differ. Where the time of the last change is that of writing (sshfs), a writer who sets it back is
not noticed."""


def read_file(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """Read a file of the client's own; symbolic links are followed.

    Raises:
        ImageNotFoundError: It is missing, unreadable or no regular file.
        ImageTooLargeError: It has more than ``max_bytes`` bytes.
        ImageChangedError: It was written to while it was read.
        TooManyFilesError: This process has no descriptor left.
    """
    try:
        fd = os.open(path, READ)
    except (OSError, ValueError) as error:
        raise unopened(repr(os.fspath(path)), error) from error
    try:
        return read_open(fd, repr(os.fspath(path)), max_bytes)
    finally:
        os.close(fd)


def read_open(fd: int, shown: str, max_bytes: int, expected: tuple[int, int] | None = None) -> bytes:
    """Read an open file from its beginning; it stays open.

    Args:
        fd: Its descriptor.
        shown: What messages call it.
        max_bytes: Largest file to read.
        expected: Size and modification time, in nanoseconds, that it must have.

    Raises:
        ImageNotFoundError: It is no regular file, or cannot be read.
        ImageTooLargeError: It has more than ``max_bytes`` bytes.
        ImageChangedError: Size or modification time are others, or change while it is read.
    """
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
        raise ImageNotFoundError(f"{shown} cannot be read: {reason(error)}") from error
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


def unopened(shown: str, error: OSError | ValueError) -> VisionPipeError:
    """Say why a file could not be opened."""
    if isinstance(error, OSError) and error.errno in NONE_LEFT:
        return TooManyFilesError(
            f"{shown} cannot be opened: {reason(error)}. Try again, or raise the limit (ulimit -n, LimitNOFILE=)."
        )
    return ImageNotFoundError(f"{shown} cannot be opened: {reason(error)}")


def reason(error: OSError | ValueError) -> str:
    """Say what the system says of a file."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
