"""One live run per output folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visionpipe.errors import LedgerError, RunLockedError

LOCK_NAME = ".lock"


@contextmanager
def output_lock(out: Path) -> Iterator[None]:
    """Hold the output folder, making it when needed; the kernel lets go when the process dies, however it dies.

    Raises:
        RunLockedError: Another process holds it.
        LedgerError: It cannot be made or written to.
    """
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
        # After kill -9 a file that names a process lives on, a lock does not; the number only serves the message.
        descriptor = os.open(out / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise RunLockedError(
                f"Expected {str(out)!r} to be free; process {holder} is running into it. "
                "Wait for it to end, or choose another output folder."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Say of the output folder what the system says of one of its files.

    Raises:
        LedgerError: Something in it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"The output folder {str(out)!r} cannot be written to: {error}. "
            "Make room or mend its permissions and run again, which goes on where this stopped."
        ) from error
