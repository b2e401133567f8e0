"""File names are bytes; these are the two ways they become text."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from urllib.parse import quote


def as_text(path: bytes) -> str:
    r"""Show a path: UTF-8, and every byte that is not as ``\xNN``."""
    return path.decode("utf-8", "backslashreplace")


def as_base64(path: bytes) -> str | None:
    """The exact bytes of a path that ``as_text`` cannot show exactly; ``None`` for plain UTF-8."""
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(path).decode("ascii")
    return None


def as_url(path: bytes) -> str:
    """A relative URL for a relative path, whatever its bytes."""
    # quote() leaves only unreserved ASCII, so "?", "#", "%" and bytes of no encoding all reach the file they name.
    return quote(path.replace(os.sep.encode(), b"/"))


def real_path(path: Path) -> bytes:
    """The path with its links resolved."""
    return os.path.realpath(os.fsencode(path))
