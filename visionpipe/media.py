"""Files by reference: named folders that client and workers both mount."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from visionpipe.errors import ImageNotFoundError, UnknownMediaRootError
from visionpipe.file_reading import NONE_LEFT, READ, read_open, reason, unopened
from visionpipe.schemas.images import MediaImage

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_NOT_PLAIN = re.compile(r"\0|(?:\A|/)\.{0,2}(?:/|\Z)")

FOLDER_FRESH_S = 1.0
"""For how long a folder is taken to lie where it was last seen; a worker checks every file it opens."""


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
            raise ImageNotFoundError(f"{spelled!r} cannot be opened: {reason(error)}") from error
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
            return read_open(fd, shown, max_bytes, (ref.size_bytes, ref.mtime_ns))
        finally:
            os.close(fd)


MAX_DEPTH = 100
"""Folders between a root and a file; each costs a call of the system and, for a moment, a descriptor."""
MAX_OPEN = 32
"""Folders that one thread has open at once; a process may have some 1,000 files open in all."""


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
        if _NOT_PLAIN.search(relative):
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
            return os.open(name, READ | _NOFOLLOW, dir_fd=self._folder(root, folder))
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
        self._close()
        return os.open(name, READ | _NOFOLLOW, dir_fd=self._folder(root, folder))

    def _folder(self, root: Path, relative: str) -> int:
        known = self._open.get((root, relative))
        if known is not None:
            return known
        parts = relative.split("/") if relative else []
        if len(parts) > MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, f"it lies more than {MAX_DEPTH} folders deep")
        fd = self._step(root, "", lambda: os.open(root, READ | _FOLDER))
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


def _open_folder(name: str, parent: int) -> int:
    return os.open(name, READ | _NOFOLLOW | _FOLDER, dir_fd=parent)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
