"""Work beside the device."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import pytest

from models.attribution import Settings
from models.attribution.aside import aside
from models.attribution.lime import Lime
from models.attribution.methods import explain
from models.attribution.sanity import SanityTest

from .questions import Small, ask


def ended(steps: Generator[Any, None, int]) -> int:
    """Run a generator to its end; gives what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stopped:
            return int(stopped.value)


def test_steps_go_on_while_something_is_done_aside() -> None:
    go_on = threading.Event()

    def work() -> int:
        assert go_on.wait(10)
        return threading.get_ident()

    steps = aside(work, (3, 7))
    assert [next(steps), next(steps)] == [(3, 7), (3, 7)]
    go_on.set()
    assert ended(steps) != threading.get_ident()


def test_what_it_raises_comes_out() -> None:
    def work() -> None:
        raise TimeoutError("no")

    with pytest.raises(TimeoutError, match="no"):
        list(aside(work, (0, 1)))


def test_a_sanity_check_fits_surrogates_aside_and_asks_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    question, settings = ask(Small()), Settings("lime", samples=64, count=6, algorithm="grid")
    explained = explain(question, settings)
    fits: list[int] = []
    best_map = Lime.best_map

    def watched(self: Lime) -> Any:
        fits.append(threading.get_ident())
        return best_map(self)

    def best(_: Lime) -> Any:
        raise AssertionError("errors take longer than the fit")

    monkeypatch.setattr(Lime, "best_map", watched)
    monkeypatch.setattr(Lime, "best", best)
    test = SanityTest(question, settings, explained)
    assert list(test.steps())
    assert len(fits) == 3
    assert threading.get_ident() not in fits
