"""Weights: where they lie, how they are fetched and checked, and how they are read without running code."""

from __future__ import annotations

import http.client
import os
import pickle
import posixpath
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from models.catalog import Entry, file_sha256
from models.errors import WeightsMismatch, WeightsUnavailable

if TYPE_CHECKING:
    from torch import Tensor

ReportProgress = Callable[[int, int | None], None]
"""Called with the bytes fetched so far and, where known, the bytes in all."""

TIMEOUT_S = 30.0
"""A server silent for so long is given up."""
CHUNK_BYTES = 1 << 20
"""Bytes read at once from the network."""


def checkpoint_folder() -> Path:
    """Name the folder in which torchvision keeps downloaded weights; honours ``TORCH_HOME``."""
    hub = sys.modules.get("torch.hub")
    if hub is not None:
        return Path(hub.get_dir()) / "checkpoints"
    # The same rule without the seconds that importing torch takes.
    cache_home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    torch_home = os.environ.get("TORCH_HOME", f"{cache_home}/torch")
    return Path(torch_home).expanduser() / "hub" / "checkpoints"


def weights_path(entry: Entry) -> Path | None:
    """Say where the weights lie, or would lie; ``None`` where the network brings its own."""
    weights = entry.card.weights
    if weights is None:
        return None
    folder = entry.folder if entry.folder is not None else checkpoint_folder()
    return folder / (weights.file or posixpath.basename(urlsplit(weights.url or "").path))


def present(entry: Entry) -> bool:
    """Whether the weights need not be fetched."""
    path = weights_path(entry)
    return path is None or path.is_file()


def pull(entry: Entry, progress: ReportProgress | None = None) -> Path | None:
    """Make sure that the weights are here and are the right ones.

    Args:
        entry: The model.
        progress: Told of every megabyte.

    Returns:
        Their file; ``None`` where the network brings its own.

    Raises:
        WeightsUnavailable: They are not here and cannot be fetched; the message names the file that would do.
        WeightsMismatch: The file is not the one the card names.
    """
    path = weights_path(entry)
    if path is None:
        return None
    if not path.is_file():
        url = entry.card.weights.url if entry.card.weights is not None else None
        if url is None:
            raise _unavailable(entry, path, "the file is missing")
        try:
            _download(entry, url, path, progress)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _unavailable(entry, path, f"fetching them failed ({error})") from error
    else:
        check(entry, path)
    return path


def check(entry: Entry, path: Path) -> None:
    """Compare a file with the hash that the card promises, if it promises one.

    Raises:
        WeightsUnavailable: The file cannot be read.
        WeightsMismatch: It is another one.
    """
    expected = entry.card.weights.sha256 if entry.card.weights is not None else None
    if expected is None:
        return
    try:
        found = file_sha256(path)
    except OSError as error:
        raise _unavailable(entry, path, f"the file cannot be read ({error})") from error
    if not found.startswith(expected):
        raise WeightsMismatch(
            f"{path} is not the file that the card of {entry.name!r} names: expected sha256 {expected}"
            f"{'...' if len(expected) < 64 else ''}, got {found}. It is damaged or another version; remove it and run "
            f"`visionpipe models pull {entry.name}`.",
            model=entry.name,
            file=str(path),
            expected=expected,
            found=found,
        )


def read(path: Path) -> dict[str, Tensor]:
    """Read named tensors onto the CPU; never runs code from the file.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote.

    Returns:
        The mapping that was saved, with the layers' versions that ``state_dict()`` attached to it, if any.

    Raises:
        WeightsMismatch: The file is damaged, or holds more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsMismatch(
            f"{path} cannot be read as tensors alone: it is damaged, or a pickle that would run code. "
            "Save the network's state_dict() as safetensors.",
            file=str(path),
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, LookupError) as error:
        raise WeightsMismatch(f"{path} is damaged or no file of tensors: {error}.", file=str(path)) from error
    return _state_dict(content, path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    import torch

    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsMismatch(
            f"{path}: expected a state_dict (names to tensors), got {type(content).__name__}.", file=str(path)
        )
    # No copy into a plain dict: that would lose the attached versions, by which layers read older checkpoints.
    return content if isinstance(content, dict) else dict(content)


def _download(entry: Entry, url: str, path: Path, progress: ReportProgress | None) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"only http and https URLs are fetched, not {urlsplit(url).scheme!r}")
    # torch.hub's own download has no timeout: a silent server would hold a worker for ever.
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer,  # noqa: S310 - the scheme is checked above
        tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as part,
    ):
        try:
            length = answer.headers.get("Content-Length")
            total = int(length) if length is not None else None
            while chunk := answer.read(CHUNK_BYTES):
                part.write(chunk)
                if progress is not None:
                    progress(part.tell(), total)
            if total is not None and part.tell() != total:
                raise OSError(f"the connection ended after {part.tell()} of {total} bytes")
            part.flush()
            check(entry, Path(part.name))
            Path(part.name).replace(path)
        finally:
            Path(part.name).unlink(missing_ok=True)


def _unavailable(entry: Entry, path: Path, reason: str) -> WeightsUnavailable:
    expected = entry.card.weights.sha256 if entry.card.weights is not None else None
    hashed = f" (its sha256 begins with {expected})" if expected else ""
    cure = f", or run `visionpipe models pull {entry.name}` where there is a network" if entry.folder is None else ""
    return WeightsUnavailable(
        f"The weights of {entry.name!r} are not here: {reason}. Put the file {path.name!r}{hashed} into the folder "
        f"{path.parent}{cure}.",
        model=entry.name,
        file=path.name,
        folder=str(path.parent),
        sha256=expected,
    )
