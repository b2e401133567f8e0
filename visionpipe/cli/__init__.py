"""The ``visionpipe`` command."""

from visionpipe.cli.app import main

__all__ = ["main"]
