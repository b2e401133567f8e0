"""Threads without which a worker is of no use, and how many cores each kind may take."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger("visionpipe.threads")

FATAL_EXIT = 70
"""Exit status of a worker whose device hung or whose thread died; its supervisor starts another."""


@contextmanager
def ending_the_worker(name: str) -> Iterator[None]:
    """End the process when what is done inside fails: without it the worker would hold jobs for ever.

    Args:
        name: Of what is done.
    """
    try:
        yield
    except BaseException:
        logger.critical(
            "the %s thread died; the worker ends so that its supervisor starts another", name, exc_info=True
        )
        os._exit(FATAL_EXIT)


def vital(name: str, target: Callable[[], None]) -> threading.Thread:
    """Make a daemon thread whose failure ends the process.

    Args:
        name: Of the thread.
        target: What it runs.
    """

    def run() -> None:
        with ending_the_worker(name):
            target()

    return threading.Thread(target=run, name=name, daemon=True)


def use_cores(number: int) -> None:
    """Set how many cores torch uses for one operation started from this thread.

    Decode threads take one each: otherwise every one of them brings a team as large as the device thread's own.
    """
    # Reading first makes torch settle this thread; a later call in another thread then cannot change it any more.
    torch.get_num_threads()
    torch.set_num_threads(number)
