"""What a check says."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "note", "warn", "fail"]


class Check(NamedTuple):
    """One thing looked at."""

    name: str
    """What."""
    state: State
    """``note`` is neither good nor bad; ``fail`` keeps something from working."""
    found: str
    """What is there."""
    advice: str = ""
    """What to do about it."""
