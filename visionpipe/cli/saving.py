"""What ``visionpipe run --save`` writes: every artifact as a file, and every result drawn over its image."""

from __future__ import annotations

import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visionpipe.cli.answers import Answer, Saved
from visionpipe.errors import VisionPipeError
from visionpipe.schemas.jobs import Item
from visionpipe.schemas.results import Result
from visionpipe.settings import Settings

if TYPE_CHECKING:
    from visionpipe.client import Client
    from visionpipe.schemas.requests import Options

OVERLAY = "overlay"
_JPEGS = {".jpg", ".jpeg", ".jpe", ".jfif"}


def drawable(options: Options, result: type[Result]) -> Options:
    """Ask for what serves the drawing as well, unless the options say otherwise."""
    more = {name: value for name, value in result.OVERLAY_OPTIONS.items() if name not in options.model_fields_set}
    return options.model_copy(update=more)


def save_all(
    client: Client, answers: Sequence[Answer], sources: Sequence[str], folder: Path
) -> tuple[list[Saved], list[str]]:
    """Write the artifacts and drawings of all answers, and say which drawings could not be made."""
    saved = save_artifacts(client, answers, folder)
    drawn, notes = save_overlays(answers, sources, folder, saved, client.settings)
    return [*saved, *drawn], notes


def save_artifacts(client: Client, answers: Sequence[Answer], folder: Path) -> list[Saved]:
    """Fetch every artifact and write it as ``<image>-<field>.<suffix>``."""
    saved: list[Saved] = []
    for item in (answer.item for answer in answers):
        for field, ref in item.result.artifacts() if item.result else []:
            suffix = {"application/x-npy": ".npy"}.get(ref.media_type) or mimetypes.guess_extension(ref.media_type)
            path = _path(folder, item, field.replace(".", "-"), suffix or ".bin", saved)
            path.write_bytes(client.artifact(ref))
            saved.append(Saved(item.index, field, path))
    return saved


def save_overlays(
    answers: Sequence[Answer], sources: Sequence[str], folder: Path, saved: Sequence[Saved], settings: Settings
) -> tuple[list[Saved], list[str]]:
    """Draw every result over its image and write it as ``<image>-overlay.png``, or ``.jpg`` beside a JPEG.

    Args:
        answers: In the order of the images.
        sources: Paths or URLs of the images; empty for a request without images.
        folder: Where to.
        saved: What lies there already.
        settings: Limits for what is fetched from URLs.

    Returns:
        The drawings, and what is to be said of those that could not be made.
    """
    drawn: list[Saved] = []
    notes: list[str] = []
    for item in (answer.item for answer in answers):
        if item.result is None:
            continue
        source = sources[item.index] if sources else None
        suffix = ".jpg" if source and Path(source).suffix.lower() in _JPEGS else ".png"
        path = _path(folder, item, OVERLAY, suffix, [*saved, *drawn])
        try:
            item.result.save(path, None if source is None else _image(source, settings))
        except VisionPipeError as error:
            notes.append(f"{item.name or item.index} was not drawn: {error.message}")
        else:
            drawn.append(Saved(item.index, OVERLAY, path))
    return drawn, notes


def _image(source: str, settings: Settings) -> str | bytes:
    if not source.startswith(("http://", "https://")):
        return source
    from visionpipe.urls import UrlFetcher

    fetcher = UrlFetcher(
        max_bytes=settings.max_image_bytes,
        timeout_s=settings.url_timeout_s,
        allow_private=settings.url_allow_private,
    )
    return fetcher.fetch(source)


def _path(folder: Path, item: Item[Result], what: str, suffix: str, taken: Sequence[Saved]) -> Path:
    stem = f"{Path(item.name or 'result').stem}-{what}"
    path = folder / f"{stem}{suffix}"
    return path.with_stem(f"{stem}-{item.index}") if any(path == other.path for other in taken) else path
