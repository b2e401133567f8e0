"""Where a run keeps artifacts and drawings as files, and how they are written: whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import mimetypes
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from visionpipe.runs.lock import writable
from visionpipe.runs.names import as_base64, as_text
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results import Result

ARTIFACTS = "artifacts"
OVERLAYS = "overlays"
MARK = ".visionpipe"
"""Lies in folders that are ours to throw away."""
_LONGEST_STEM = 40
_LONGEST_NAME = 250
_SUFFIXES = {"application/x-npy": ".npy"}


def artifact_name(path: bytes, field: str, media_type: str) -> str:
    """Name the file of one artifact, relative to the output folder.

    It depends on the input's path alone, so a second try takes the place of the first; the digest in it keeps inputs
    apart whose paths look alike, and spreads the files over 256 folders.

    Args:
        path: The input's path, relative to the folder of the run; any bytes.
        field: Path of the result's field, such as ``label_map`` or ``units.0.pattern``.
        media_type: Decides the suffix.
    """
    digest = hashlib.sha256(path).hexdigest()[:20]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", as_text(path.rpartition(b"/")[2].partition(b".")[0]))[:_LONGEST_STEM]
    suffix = _SUFFIXES.get(media_type) or mimetypes.guess_extension(media_type) or ".bin"
    return f"{ARTIFACTS}/{digest[:2]}/{stem or 'image'}-{digest}-{field.replace('.', '-')}{suffix}"


def artifact_names(path: bytes, result: Result) -> dict[str, tuple[ArtifactRef, str]]:
    """Name the files of all artifacts of a result: field → what it names, and its file."""
    return {field: (ref, artifact_name(path, field, ref.media_type)) for field, ref in result.artifacts()}


def overlay_names(path: bytes) -> tuple[bytes, bytes]:
    """Name the file of a drawing, relative to the output folder: the usual place, and one for where that cannot be."""
    digest = hashlib.sha256(path).hexdigest()
    # A folder may have the very name that another input's drawing needs, and a name may be as long as names can be.
    return b"%s/%s.jpg" % (OVERLAYS.encode(), path), f"{OVERLAYS}/.other/{digest[:2]}/{digest}.jpg".encode()


def overlay_file(out: bytes, path: bytes) -> bytes | None:
    """Find the drawing of an input, relative to the output folder; ``None`` when there is none."""
    return next((name for name in overlay_names(path) if os.path.isfile(out + b"/" + name)), None)  # noqa: PTH113


def write_overlay(out: bytes, path: bytes, data: bytes) -> None:
    """Write the drawing of an input.

    Raises:
        OSError: It cannot be written.
    """
    usual, other = overlay_names(path)
    # The tables name files as text, so only a path that is text keeps its name.
    if as_base64(path) is None and len(usual.rpartition(b"/")[2]) <= _LONGEST_NAME:
        with contextlib.suppress(NotADirectoryError, FileExistsError, IsADirectoryError):
            return write_whole(out + b"/" + usual, data)
    return write_whole(out + b"/" + other, data)


def drop_overlay(out: bytes, path: bytes) -> None:
    """Remove the drawing of an input, if there is one."""
    while (name := overlay_file(out, path)) is not None:
        os.unlink(out + b"/" + name)  # noqa: PTH108 - a path of bytes


def drop_overlays(out: Path, paths: Iterable[bytes]) -> None:
    """Remove the drawings of inputs, if drawings were ever asked for.

    Raises:
        LedgerError: One cannot be removed.
    """
    if (out / OVERLAYS / MARK).is_file():
        with writable(out):
            for path in paths:
                drop_overlay(os.fsencode(out), path)


def write_whole(path: bytes, data: bytes) -> None:
    """Write a file that is there either whole or not at all, whenever the process dies."""
    folder, _, name = path.rpartition(b"/")
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - a path of bytes
    # The name is cut, because that of the file itself may be as long as names can be.
    draft = folder + b"/." + name[-200:] + b".part"
    try:
        with open(draft, "wb") as file:  # noqa: PTH123
            file.write(data)
        os.replace(draft, path)  # noqa: PTH105
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)  # noqa: PTH108
        raise


def is_whole(out: Path, name: str, ref: ArtifactRef, *, closely: bool = False) -> bool:
    """Whether an artifact's file is there with all its bytes; ``closely`` also compares their hash."""
    file = out / name
    try:
        if file.stat().st_size != ref.size_bytes:
            return False
        return not closely or f"artifact:{hashlib.sha256(file.read_bytes()).hexdigest()}" == ref.key
    except OSError:
        return False


def reader(out: Path, path: bytes, result: Result) -> Callable[[ArtifactRef], bytes]:
    """Make what reads a result's artifacts from their files."""
    names = {ref.key: name for ref, name in artifact_names(path, result).values()}
    return lambda ref: (out / names[ref.key]).read_bytes()


def make_folder(out: Path, folder: str) -> None:
    """Make a folder of ours, with a mark in it that says so."""
    with writable(out):
        (out / folder).mkdir(exist_ok=True)
        (out / folder / MARK).touch()


def discard_files(out: Path) -> None:
    """Throw away the folders of ours; others of the same name stay."""
    for folder in (out / ARTIFACTS, out / OVERLAYS):
        if (folder / MARK).is_file():
            shutil.rmtree(folder)
