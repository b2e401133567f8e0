"""Turns the inputs of a chunk into images to submit, each on its own: one unreadable file is one failed row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from visionpipe.errors import ImageError, InvalidImageError
from visionpipe.file_reading import read_file
from visionpipe.media import MediaRoots
from visionpipe.runs.rows import Input, Outcome
from visionpipe.schemas.images import MediaImage
from visionpipe.schemas.jobs import ErrorInfo


class Prepared(NamedTuple):
    """What can be submitted of a chunk, and what cannot."""

    images: list[MediaImage | bytes]
    """A reference where the workers mount the file, else its bytes; in order."""
    refused: list[Outcome]
    """An error for every other position below ``taken``."""
    taken: int
    """How many inputs, from the first, were looked at before the bytes to send became too many."""


def prepare(
    inputs: Sequence[Input],
    folder: bytes,
    roots: MediaRoots,
    shared: frozenset[str],
    *,
    max_bytes: int,
    upload_bytes: int,
) -> Prepared:
    """Read or reference every input; does file I/O, so call it in a thread.

    Args:
        inputs: The inputs.
        folder: Folder they are relative to.
        roots: The media roots of this process.
        shared: Names of those that every worker mounts as well.
        max_bytes: Largest file to read.
        upload_bytes: Once so many bytes were read, no further input is looked at.
    """
    images: list[MediaImage | bytes] = []
    refused: list[Outcome] = []
    read = 0
    for position, image in enumerate(inputs):
        if read >= upload_bytes:
            return Prepared(images, refused, position)
        path = os.fsdecode(folder + b"/" + image.path)
        try:
            found = _image(path, roots, shared, max_bytes)
        except ImageError as error:
            refused.append(refusal(position, error))
        else:
            images.append(found)
            read += len(found) if isinstance(found, bytes) else 0
    return Prepared(images, refused, len(inputs))


def _image(path: str, roots: MediaRoots, shared: frozenset[str], max_bytes: int) -> MediaImage | bytes:
    # One worker without the root would refuse the reference, and nobody chooses which worker takes the job.
    if shared:
        reference = roots.reference(path, among=shared)
        if reference is not None:
            return reference
    # Names that are not UTF-8, and links that lead out of the root, have no reference and travel as bytes.
    data = read_file(path, max_bytes=max_bytes)
    if not data:
        raise InvalidImageError("Expected an image, got an empty file.")
    return data


def refusal(position: int, error: ImageError) -> Outcome:
    """Record an error that stopped an input before it was submitted."""
    info = ErrorInfo(code=error.code, message=_text(error.message))
    answer = f'{{"error":{info.model_dump_json()}}}'
    return Outcome(position, answer, error.code, info.message)


def _text(message: str) -> str:
    return message.encode("utf-8", "backslashreplace").decode("utf-8")
