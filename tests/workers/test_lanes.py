"""Decode threads: when more than one reads for a lane."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from visionpipe.schemas.images import MediaImage
from visionpipe.schemas.jobs import Lane
from workers import lanes
from workers.lanes import SLICE, LaneThreads

from .conftest import wait_for

EACH_S = 0.0005
TINY, SLOW = 1000 * EACH_S, EACH_S / 1000
"""What an image may take that is tiny: far more than it does, and far less."""


def works(number: int, size_bytes: int = 900) -> list[Any]:
    ref = MediaImage(root="a", path="b.png", size_bytes=size_bytes, mtime_ns=0)
    return [SimpleNamespace(ref=ref) for _ in range(number)]


class Readers:
    """Three threads that are always needed, and who did what."""

    def __init__(self) -> None:
        self.slices: list[tuple[str, int]] = []
        self.hunger = threading.Condition()
        self.is_closing = False
        self.threads = LaneThreads("decode", self.read, 3, need=self.need)

    def read(self, some: Sequence[Any]) -> None:
        time.sleep(EACH_S * len(some))
        with self.hunger:
            self.slices.append((threading.current_thread().name, len(some)))
            self.hunger.notify_all()

    def need(self, is_fed: Callable[[], bool]) -> None:
        with self.hunger:
            self.hunger.wait_for(lambda: self.is_closing or not is_fed())

    def busy(self) -> set[str]:
        """Those that read after each has had its first slice, for nobody knows how long that takes."""
        return {name for name, _ in self.slices[10:]}

    def close(self) -> None:
        with self.hunger:
            self.is_closing = True
            self.hunger.notify_all()
        self.threads.close()


@pytest.fixture
def readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Readers]:
    monkeypatch.setattr(lanes, "TINY_S", request.param)
    made = Readers()
    yield made
    made.close()


@pytest.mark.parametrize("readers", [TINY], indirect=True)
def test_tiny_images_are_read_by_one_thread_alone(readers: Readers) -> None:
    readers.threads.put(Lane.BULK, works(40 * SLICE))
    wait_for(lambda: len(readers.slices) == 40)
    assert readers.busy() == {"decode-bulk-0"}


@pytest.mark.parametrize("readers", [SLOW], indirect=True)
def test_small_files_that_take_long_to_come_are_read_by_all(readers: Readers) -> None:
    readers.threads.put(Lane.BULK, works(40 * SLICE))
    wait_for(lambda: len(readers.slices) == 40)
    assert len(readers.busy()) == 3


@pytest.mark.parametrize("readers", [TINY], indirect=True)
def test_large_files_are_read_by_all_again_after_tiny_ones(readers: Readers) -> None:
    readers.threads.put(Lane.BULK, works(20 * SLICE))
    wait_for(lambda: len(readers.slices) == 20)
    readers.slices.clear()
    readers.threads.put(Lane.BULK, works(60, size_bytes=200_000))
    wait_for(lambda: len(readers.slices) == 60)
    assert {number for _, number in readers.slices} == {1}
    assert len(readers.busy()) == 3


@pytest.mark.parametrize("readers", [TINY], indirect=True)
def test_interactive_images_are_read_by_whoever_has_time(readers: Readers) -> None:
    readers.threads.put(Lane.INTERACTIVE, works(40 * SLICE))
    wait_for(lambda: len(readers.slices) == 40)
    assert len(readers.busy()) == 3
