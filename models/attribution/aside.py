"""Work that needs no device, in the midst of device steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 0.02
"""How long one step waits: whoever else waits for the device has it in between."""


def aside(work: Callable[[], T], told: tuple[int, int]) -> Generator[tuple[int, int], None, T]:
    """Do something in a thread of its own, yielding until it is done; gives what it returned, or raises what it raised.

    Args:
        work: What to do. It goes on, and is forgotten, if the generator is left.
        told: The progress that is yielded meanwhile.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    while not wait([future], timeout=WAIT_S).done:
        yield told
    return future.result()
