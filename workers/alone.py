"""Making a file that several processes want, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from visionpipe.locks import FileLock


@contextmanager
def alone(path: Path, wait: Callable[[], None]) -> Iterator[bool]:
    """Wait while another process makes a file; says whether it is there then. If not, nobody else makes it meanwhile.

    Args:
        path: The file.
        wait: Waits a moment; what it raises ends the waiting.
    """
    lock = path.with_name(f".{path.stem}.lock")
    while not path.exists():
        with FileLock(lock) as mine:
            # Whoever made the file before deleted the lock as well.
            if mine.acquire() and mine.in_place():
                try:
                    yield path.exists()
                finally:
                    lock.unlink(missing_ok=True)
                return
        wait()
    yield True
