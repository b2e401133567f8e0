"""Keeps the libraries beneath Pillow from writing to stderr, a line for each damaged row of a fax."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from pathlib import Path

from PIL import features


@cache
def silence_libtiff() -> bool:
    """Take away libtiff's habit of printing errors, which Pillow raises anyway; says whether that was possible.

    A fax may have a hundred million rows, each good for a line in the log of whoever decodes it.
    """
    if not features.check("libtiff"):
        return False
    with contextlib.suppress(OSError, AttributeError, StopIteration):
        # The very library that Pillow has loaded, whether it came in its wheel or with the system.
        lines = Path("/proc/self/maps").read_text().splitlines()
        path = next(line.split(maxsplit=5)[5] for line in lines if "/libtiff" in line)
        library = ctypes.CDLL(path)
        for handler in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
        return True
    return False
