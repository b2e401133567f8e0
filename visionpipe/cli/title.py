"""Keeps passwords out of the list of processes, which every user of a machine may read."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from pathlib import Path

_CREDENTIALS = re.compile(rb"://([^\0/@]*)@")


def hide_passwords() -> None:
    """Overwrite user and password of every URL in this process' own command line; only Linux allows it."""
    if sys.platform != "linux" or not any(_CREDENTIALS.search(word.encode()) for word in sys.orig_argv):
        return
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Fields 48 and 49 of proc(5): where the arguments begin and end in memory.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin, end = int(fields[45]), int(fields[46])
        for found in _CREDENTIALS.finditer(ctypes.string_at(begin, end - begin)):
            ctypes.memset(begin + found.start(1), ord("*"), len(found[1]))
