"""Locks between processes that the kernel lets go when their holder dies, however it dies. Not for Windows."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

_POLL_S = 0.02


class FileLock:
    """An advisory lock on a file, shared or exclusive; two of the same path in one process are two lockers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def fileno(self) -> int:
        """The file descriptor; a child that inherits it holds the lock too."""
        return self._fd

    def in_place(self) -> bool:
        """Whether the file that is locked is still the one at the path."""
        try:
            return os.path.samestat(os.fstat(self._fd), self.path.stat())
        except FileNotFoundError:
            return False

    def acquire(self, *, shared: bool = False, timeout_s: float = 0) -> bool:
        """Take the lock, or change its kind; ``False`` when others still hold it after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                time.sleep(_POLL_S)
            else:
                return True

    def release(self) -> None:
        """Let the lock go, also for children that inherited it."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; the lock goes once no child has it open either."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
