"""Walks a folder and names every file in it exactly once.

The order is the byte order of the whole relative path. Links to files are followed. Links to folders are followed
where they lead outside the scanned folder, and each such folder is entered once, so that no loop is walked twice.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from visionpipe.errors import ImageNotFoundError, RunConflictError

IMAGE_SUFFIXES = frozenset(
    b".avif .bmp .dib .gif .heic .heif .ico .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff "
    b".webp".split()
)
"""What is taken for an image unless patterns are given; the worker looks at the bytes, never at the name."""


class Found(NamedTuple):
    """One directory entry that is an input, or the reason why it is none."""

    path: bytes
    """Relative to the scanned folder."""
    size_bytes: int = 0
    """Size of the file."""
    mtime_ns: int = 0
    """Modification time of the file."""
    skip: str | None = None
    """Why it is no input: ``hidden``, ``other_type``, ``not_a_file``, ``linked_inside``, ``link_loop``, ``output``."""
    code: str | None = None
    """Error code when it should have been an input and cannot be one."""
    message: str = ""
    """The reason in words."""


class _Listing(NamedTuple):
    """A folder's names in order, folders with a slash behind; one folder may hold a million."""

    names: list[bytes]
    links: frozenset[bytes]


class _Level(NamedTuple):
    prefix: bytes
    linked: bool
    names: Iterator[bytes]
    links: frozenset[bytes]


@dataclass
class Scanner:
    """A walk over one folder.

    Args:
        folder: Where to look.
        patterns: Names to take, such as ``*.png``; with a slash they are held against the relative path.
        every_file: Take every file that is not hidden, whatever its name.
        leave_out: Folders (absolute) that are outputs, not inputs.
    """

    folder: bytes
    patterns: tuple[str, ...] = ()
    every_file: bool = False
    leave_out: frozenset[bytes] = frozenset()
    _root: bytes = field(init=False)
    _linked: set[tuple[int, int]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._root = os.path.realpath(self.folder)

    def __iter__(self) -> Iterator[Found]:
        """Walk, deepest names in their place; memory is bounded by the largest single folder.

        Raises:
            RunConflictError: The folder itself is missing or no folder.
        """
        try:
            os.scandir(self._root).close()
        except (FileNotFoundError, NotADirectoryError) as error:
            message = f"Expected a folder of images at {os.fsdecode(self.folder)!r}; there is none."
            raise RunConflictError(message) from error
        except OSError:
            pass  # It is there and cannot be listed, which the walk records.
        # Nested generators would stop at the recursion limit, and paths may have twice as many levels.
        stack: list[_Level] = []
        yield from self._enter(stack, b"", linked=False)
        while stack:
            prefix, linked, names, links = stack[-1]
            listed = next(names, None)
            if listed is None:
                stack.pop()
                continue
            name, is_link = listed.removesuffix(b"/"), listed in links
            path, through_link = prefix + name, linked or is_link
            if name.startswith(b"."):
                yield Found(path, skip="hidden", message="Its name begins with a dot.")
            elif not listed.endswith(b"/"):
                yield self._file(path, name, is_link=is_link)
            elif (refusal := self._refuse_folder(path, linked=through_link)) is not None:
                yield refusal
            else:
                yield from self._enter(stack, path + b"/", linked=through_link)

    def _enter(self, stack: list[_Level], prefix: bytes, *, linked: bool) -> Iterator[Found]:
        try:
            listing = self._listing(prefix)
        except OSError as error:
            yield _unreadable(prefix.rstrip(b"/") or b".", f"This folder cannot be listed: {error.strerror}.")
        else:
            stack.append(_Level(prefix, linked, iter(listing.names), listing.links))

    def _listing(self, prefix: bytes) -> _Listing:
        names, links = [], []
        with os.scandir(self._root + b"/" + prefix) as listing:
            for entry in listing:
                # A link that leads round in a circle cannot even be asked whether it is a folder.
                try:
                    folder, link = entry.is_dir(), entry.is_symlink()
                except OSError:
                    folder, link = False, True
                # With its slash a folder sorts where its files belong, so the walk is in order of whole paths.
                names.append(entry.name + b"/" if folder else entry.name)
                if link:
                    links.append(names[-1])
        names.sort()
        return _Listing(names, frozenset(links))

    def _refuse_folder(self, path: bytes, *, linked: bool) -> Found | None:
        on_disk = self._root + b"/" + path
        real = os.path.realpath(on_disk) if linked or self.leave_out else on_disk
        if real in self.leave_out:
            return Found(path, skip="output", message="This is the output folder of the run.")
        if not linked:
            return None
        if real == self._root or real.startswith(self._root + b"/"):
            return Found(path, skip="linked_inside", message="This link leads to a folder that is scanned itself.")
        try:
            status = os.stat(on_disk)  # noqa: PTH116 - a path of bytes
        except OSError as error:
            return _unreadable(path, f"This folder cannot be entered: {error.strerror}.")
        identity = (status.st_dev, status.st_ino)
        if identity in self._linked:
            return Found(path, skip="link_loop", message="This linked folder has been scanned under another name.")
        self._linked.add(identity)
        return None

    def _file(self, path: bytes, name: bytes, *, is_link: bool) -> Found:
        if not self._wanted(path, name):
            return Found(path, skip="other_type", message="Its name is not one of those asked for.")
        try:
            status = os.stat(self._root + b"/" + path)  # noqa: PTH116 - a path of bytes
        except OSError as error:
            reason = "the link points to nothing" if is_link else error.strerror
            return _unreadable(path, f"This file cannot be opened: {reason}.")
        if not stat.S_ISREG(status.st_mode):
            return Found(path, skip="not_a_file", message="It is a pipe, socket or device.")
        return Found(path, status.st_size, status.st_mtime_ns)

    def _wanted(self, path: bytes, name: bytes) -> bool:
        if self.every_file:
            return True
        if not self.patterns:
            return name[name.rfind(b".") :].lower() in IMAGE_SUFFIXES
        return any(
            fnmatch.fnmatchcase((path if "/" in pattern else name).lower(), os.fsencode(pattern).lower())
            for pattern in self.patterns
        )


def _unreadable(path: bytes, message: str) -> Found:
    return Found(path, code=ImageNotFoundError.code, message=message)
