"""The owner's own code: factories and hooks that a card in the user's folder names."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

from models.catalog import Entry
from models.errors import ModelLoadFailed

T = TypeVar("T")


def find(entry: Entry, named: str) -> Callable[..., Any]:
    """Find ``module:function``, in the model's folder first, then among the importable modules.

    Raises:
        ModelLoadFailed: There is no such module or function, or importing it fails.
    """
    module_name, _, function_name = named.partition(":")
    module = _import(entry, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelLoadFailed(
            f"{entry.name}: expected a function {function_name!r} in {module.__file__ or module_name}, found none.",
            model=entry.name,
        )
    found: Callable[..., Any] = function
    return found


def call(entry: Entry, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a factory; whatever it raises is reported as a fault of this model.

    Raises:
        ModelLoadFailed: The factory raised.
    """
    return _guarded(entry, f"{entry.card.network} with arguments {dict(arguments)}", lambda: factory(**arguments))


def _import(entry: Entry, module_name: str) -> ModuleType:
    if entry.folder is None:
        raise ModelLoadFailed(f"{entry.name}: {module_name!r} needs a folder to be found in.", model=entry.name)
    path = entry.folder.joinpath(*module_name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            own_name = f"{_package(entry)}.{module_name}"
            return _guarded(entry, str(file), partial(importlib.import_module, own_name))
    return _guarded(
        entry, f"importing {module_name!r} (it is not in {entry.folder})", partial(importlib.import_module, module_name)
    )


def _package(entry: Entry) -> str:
    # The folder becomes a package of its own instead of a place on sys.path: two folders may both hold a
    # `network.py`, files may import their neighbours relatively, and edited code has a new name and loads anew.
    name = re.sub(r"\W", "_", f"_visionpipe_model_{entry.target}")
    sys.modules.setdefault(name, ModuleType(name)).__path__ = [str(entry.folder)]
    # Python remembers for a while which files a folder held.
    importlib.invalidate_caches()
    return name


def _guarded(entry: Entry, what: str, run: Callable[[], T]) -> T:
    try:
        return run()
    except Exception as error:
        # The owner's code may raise anything; the worker must report it as this model's fault.
        raise ModelLoadFailed(
            f"{entry.name}: {what} failed with {type(error).__name__}: {error}",
            model=entry.name,
            error=type(error).__name__,
        ) from error
