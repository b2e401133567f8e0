"""The owner's own code: factories and hooks that a card in the user's folder names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
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
    path = None if entry.folder is None else entry.folder.joinpath(*module_name.split(".")).with_suffix(".py")
    module = _load_file(entry, path) if path is not None and path.is_file() else _import(entry, module_name, path)
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


def _load_file(entry: Entry, path: Path) -> ModuleType:
    # Named by model and digest, so that two folders may both hold a `network.py`, and an edited one loads anew.
    name = f"_visionpipe_model_{entry.name}_{entry.digest}_{path.stem}".replace("-", "_").replace(".", "_")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelLoadFailed(f"{entry.name}: {path} is no Python module.", model=entry.name)
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses and pickling look their module up by name.
    sys.modules[name] = module
    try:
        _guarded(entry, str(path), partial(spec.loader.exec_module, module))
    except ModelLoadFailed:
        del sys.modules[name]
        raise
    return module


def _import(entry: Entry, module_name: str, path: Path | None) -> ModuleType:
    what = f"importing {module_name!r}" + (f" (there is no {path})" if path is not None else "")
    return _guarded(entry, what, partial(importlib.import_module, module_name))


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
