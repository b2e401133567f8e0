"""Making a file that several processes want, once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(path: Path, wait: Callable[[], None]) -> Iterator[bool]:
    """Wait while another process makes a file; says whether it is there then. If not, nobody else makes it meanwhile.

    Args:
        path: The file.
        wait: Waits a moment; what it raises ends the waiting.
    """
    lock = path.with_name(f".{path.stem}.lock")
    while not path.exists():
        with lock.open("w") as handle:
            if _try_lock(handle.fileno()):
                try:
                    yield path.exists()
                finally:
                    lock.unlink(missing_ok=True)
                return
        wait()
    yield True


def _try_lock(handle: int) -> bool:
    """Lock an open file, unless another process has it locked or has deleted it since."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(handle).st_nlink > 0
