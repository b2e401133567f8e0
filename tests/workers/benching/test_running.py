"""What is kept of a measurement of which a part fails."""

from __future__ import annotations

from typing import Any

from visionpipe.errors import ModelLoadError
from workers.benching.running import _or_note


def test_a_part_that_fails_is_noted_once_and_the_others_go_on():
    def fail() -> Any:
        raise ModelLoadError("out of memory")

    notes: list[str] = []
    assert (_or_note(fail, notes), _or_note(fail, notes), _or_note(lambda: [1], notes)) == (None, None, [1])
    assert notes == ["out of memory"]
