"""Folders and files."""

from __future__ import annotations

import os
import shutil

from visionpipe.cli.checks.base import Check
from visionpipe.cli.output import size
from visionpipe.errors import EmbeddedRedisError
from visionpipe.settings import Settings

MIN_OPEN_FILES = 1024
MIN_FREE_BYTES = 2 * 10**9


def models(settings: Settings) -> Check:
    """Whether the folder of the user's models is there."""
    folder = settings.models
    if folder is None:
        return Check("your models", "note", "VISIONPIPE_MODELS is not set: bundled and torchvision models only")
    folder = folder.expanduser()
    if not folder.is_dir():
        return Check("your models", "fail", f"{folder} is no folder", "Create it, or mend VISIONPIPE_MODELS.")
    cards = sorted(path.parent.name for path in folder.glob("*/card.toml"))
    if not cards:
        advice = "Each model is a sub-folder with a card.toml."
        return Check("your models", "warn", f"{folder} holds no models", advice)
    return Check("your models", "ok", f"{', '.join(cards)} in {folder}")


def data(settings: Settings) -> Check:
    """Whether the embedded Redis can write its data, and its socket has a short enough path."""
    from visionpipe.embedded import data_folder, socket_path

    folder = data_folder(settings.data_dir)
    there = next(path for path in [folder, *folder.parents] if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("data folder", "fail", f"{there} cannot be written", "Set VISIONPIPE_DATA_DIR to another folder.")
    try:
        socket = socket_path(folder)
    except EmbeddedRedisError as error:
        return Check("data folder", "fail", error.message, "Set XDG_RUNTIME_DIR to a folder of your own.")
    free = shutil.disk_usage(there).free
    found = f"{folder}, {size(free)} free, socket {socket}"
    if free < MIN_FREE_BYTES:
        return Check("data folder", "warn", found, "Make room: Redis writes its log of changes there.")
    return Check("data folder", "ok", found)


def open_files() -> Check:
    """Whether enough files may be open at once."""
    try:
        import resource
    except ImportError:
        return Check("open files", "note", "this system does not tell")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_OPEN_FILES:
        return Check("open files", "warn", f"at most {soft}", f"Raise the limit: ulimit -n {min(hard, 65536)}")
    return Check("open files", "ok", f"at most {soft}")
