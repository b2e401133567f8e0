"""Whether a file that would run as code can have been put there by somebody else.

Compiled networks and the checkpoints of ultralytics are programs. Whoever may write them, or rename a folder above
them, decides what a worker does.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def why_not_private(path: Path) -> str | None:
    """Say what lets other users replace a file, as ``sshd`` asks of its keys; none if nothing does.

    The file and every folder above it must belong to this user or to root and be writable by nobody else; a folder
    such as ``/tmp``, in which everybody may write and nobody may replace another's files, is allowed.
    """
    for place in (path, *path.resolve().parents):
        try:
            found = place.lstat()
        except OSError as error:
            return f"{place} cannot be looked at ({error.strerror})"
        if stat.S_ISLNK(found.st_mode):
            return f"{place} is a symbolic link"
        if found.st_uid not in (os.geteuid(), 0):
            return f"{place} belongs to user {found.st_uid}"
        if found.st_mode & _OTHERS and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
            return f"{place} can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, each such that nobody else can write into it."""
    for place in reversed((folder, *folder.parents)):
        place.mkdir(mode=0o700, exist_ok=True)


def why_not_guarded(path: Path) -> str | None:
    """Say whether everybody may write a file or the folder it lies in; none if not.

    Less is asked than of what we write ourselves: a folder of models belongs to whoever made it, and is often mounted.
    """
    for place in (path, path.resolve(), path.resolve().parent):
        try:
            mode = place.lstat().st_mode
        except OSError as error:
            return f"{place} cannot be looked at ({error.strerror})"
        if not stat.S_ISLNK(mode) and mode & stat.S_IWOTH:
            return f"everybody may write {place} (mode {stat.S_IMODE(mode):o})"
    return None
