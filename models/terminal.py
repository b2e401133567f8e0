"""What the ``visionpipe models`` commands print alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from models.errors import ModelError


@contextmanager
def told() -> Iterator[None]:
    """End the command with status 1 and a message on stderr where one of our errors is raised."""
    try:
        yield
    except ModelError as error:
        console_err().print(f"[red]{error.code}:[/] ", end="")
        console_err().print(error.message, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def console_out() -> Console:
    """The console on stdout; wide when it is a file or a pipe."""
    # A name folded at 80 columns is no name to grep for.
    return Console(width=None if sys.stdout.isatty() else 200)


def console_err() -> Console:
    """The console on stderr."""
    return Console(stderr=True)
