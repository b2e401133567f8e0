"""A file that several want is made once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from workers.alone import alone


def test_who_comes_second_waits_and_finds_the_file(tmp_path: Path) -> None:
    path, entered, told = tmp_path / "x.pt2", threading.Event(), list[bool]()

    def wait() -> None:
        entered.set()
        time.sleep(0.01)

    def second() -> None:
        with alone(path, wait) as is_there:
            told.append(is_there)

    with alone(path, wait) as is_there:
        assert not is_there
        waiting = threading.Thread(target=second)
        waiting.start()
        assert entered.wait(10)
        assert told == []
        path.touch()
    waiting.join(10)
    assert told == [True]
    assert list(tmp_path.iterdir()) == [path]


def test_who_comes_after_one_that_failed_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    with pytest.raises(OSError, match="full"), alone(path, lambda: None):
        raise OSError("full")
    with alone(path, lambda: None) as is_there:
        assert not is_there


def test_the_wait_can_end(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"

    def end() -> None:
        raise InterruptedError

    with alone(path, lambda: None), pytest.raises(InterruptedError), alone(path, end):
        pass
