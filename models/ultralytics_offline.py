"""Imports ultralytics so that it keeps to itself: no network, no installations, nothing in the user's folders.

Left alone, its import asks a name server whether there is an internet, writes a settings file below the user's
configuration folder and changes how other libraries print and use threads; later it sends usage statistics, installs
what it misses, and fetches fonts before it draws. Every import of it goes through ``import_module``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from models.errors import ModelLoadFailed

FONTS = ("Arial.ttf", "Arial.Unicode.ttf")
"""What ultralytics would fetch before it draws; a font of matplotlib's stands in for them."""

_SWITCHES = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
_lock = threading.RLock()
_folders: list[tempfile.TemporaryDirectory[str]] = []


def import_module(name: str = "ultralytics") -> ModuleType:
    """Import ultralytics or one of its modules, with everything switched off that reaches beyond this process.

    Its settings and fonts lie in a temporary folder that goes with the process. Where the program imported ultralytics
    before in its own way, statistics, installations and downloads are switched off from here on.

    Args:
        name: Such as ``ultralytics`` or ``ultralytics.nn.tasks``.

    Raises:
        ModelLoadFailed: It is not installed or cannot be imported.
    """
    with _lock:
        try:
            if "ultralytics" not in sys.modules:
                _import_quietly()
            elif not _folders:
                _silence()
            return importlib.import_module(name)
        except ImportError as error:
            raise ModelLoadFailed(
                f"YOLO networks need {name}, which cannot be imported ({error}). "
                "Install the extra: pip install 'visionpipe[yolo]'. Its licence is AGPL-3.0.",
                missing="ultralytics",
            ) from error


def _import_quietly() -> None:
    # Imported first: ultralytics sets variables that would keep a torch that comes later to one thread.
    import cv2
    import numpy as np
    import torch

    folder = tempfile.TemporaryDirectory(prefix="visionpipe-ultralytics-")
    cv2_threads, save = cv2.getNumThreads(), torch.save
    try:
        with np.printoptions(), _environment(Path(folder.name)):
            _lay_out_fonts(Path(folder.name))
            importlib.import_module("ultralytics")
    except BaseException:
        folder.cleanup()
        raise
    torch.save = save
    torch.set_printoptions(profile="default")  # type: ignore[no-untyped-call]
    cv2.setNumThreads(cv2_threads)
    _folders.append(folder)


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Set variables for an import; only the switches, and matplotlib's folder, stay set."""
    before = dict(os.environ)
    os.environ.update(_SWITCHES, YOLO_CONFIG_DIR=str(folder))
    os.environ.setdefault("MPLCONFIGDIR", str(folder))
    try:
        yield
    finally:
        kept = {name: os.environ[name] for name in (*_SWITCHES, "MPLCONFIGDIR")}
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before | kept)


def _lay_out_fonts(folder: Path) -> None:
    from matplotlib import get_data_path

    inside = folder / "Ultralytics"
    inside.mkdir()
    for name in FONTS:
        shutil.copyfile(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), inside / name)


def _silence() -> None:
    os.environ.update(_SWITCHES)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "ultralytics":
            continue
        for switch in ("ONLINE", "AUTOINSTALL"):
            if hasattr(module, switch):
                setattr(module, switch, False)
    events = sys.modules.get("ultralytics.utils.events")
    if events is not None:
        events.events.enabled = False
