"""The Lua scripts, as texts with their hashes."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """One Lua script as Redis caches it."""

    text: str
    sha: str


@cache
def script(name: str, *, lapse: bool = False) -> Script:
    """Read a script with the helpers it stands on.

    Args:
        name: File name in ``lua/`` without its suffix.
        lapse: Whether it also needs ``lapse.lua``.
    """
    folder = files("visionpipe.queue") / "lua"
    parts = ["common", *(["lapse"] if lapse else []), name]
    text = "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in parts)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
