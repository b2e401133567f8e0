"""A folder with one sub-folder of pictures per class: found, read, checked and split.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import Tensor

from models.errors import InvalidDataset, InvalidImage
from models.images import decode
from models.retrain.options import Report

MIN_IMAGES = 4
"""Fewest pictures of a class: three to train on and one to validate with."""
MAX_BYTES = 256 * 2**20
"""Largest file that is read."""
MAX_PIXELS = 178_956_970
"""Largest picture that is decoded."""
CACHE_BYTES = 2 * 2**30
"""Prepared pictures kept in memory; the others are decoded anew each time."""

Prepare = Callable[[Image.Image], Tensor]
"""From an upright picture to a network's input, float32 of shape (C, H, W)."""


@dataclass(frozen=True)
class Skipped:
    """A file that is left out."""

    path: Path
    """The file, relative to the folder."""
    reason: str
    """Why."""


@dataclass
class Dataset:
    """Labelled pictures, prepared for one network."""

    folder: Path
    """Where they lie."""
    labels: list[str]
    """The classes: names of the sub-folders."""
    prepare: Prepare
    """Makes the network's input."""
    paths: list[Path] = field(default_factory=list)
    """The readable pictures, relative to the folder."""
    targets: list[int] = field(default_factory=list)
    """The class of each."""
    skipped: list[Skipped] = field(default_factory=list)
    """The files that are left out."""
    sha256: str = ""
    """Digest of all pictures and their classes."""
    _kept: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _first_of: dict[bytes, tuple[Path, int]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def counts(self) -> dict[str, int]:
        """Readable pictures of each class."""
        counted = Counter(self.targets)
        return {label: counted[class_id] for class_id, label in enumerate(self.labels)}

    def target_array(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the classes of some pictures, int64."""
        return np.asarray(self.targets, dtype=np.int64)[np.asarray(indices, dtype=np.int64)]

    def batches(self, indices: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield prepared pictures in order, float32 (N, C, H, W), at most ``size`` and of one shape at a time."""
        with ThreadPoolExecutor(_num_threads()) as pool:
            for start in range(0, len(indices), size):
                inputs = list(pool.map(self._input, indices[start : start + size]))
                shape_ends = [at for at in range(1, len(inputs)) if inputs[at].shape != inputs[at - 1].shape]
                for first, last in zip([0, *shape_ends], [*shape_ends, len(inputs)], strict=True):
                    yield torch.stack(inputs[first:last])

    def _input(self, index: int) -> Tensor:
        kept = self._kept.get(index)
        return self.prepare(_decode((self.folder / self.paths[index]).read_bytes())) if kept is None else kept


def read_folder(
    folder: Path, prepare: Prepare, report: Report, *, unlike: Dataset | None = None, min_images: int = MIN_IMAGES
) -> Dataset:
    """Read every picture once, leaving out those that cannot be decoded and second copies.

    Args:
        folder: With one sub-folder per class; pictures may lie deeper inside those.
        prepare: Makes the network's input.
        report: Told of each file.
        unlike: Pictures with the same classes, copies of which are left out, too; without them the sub-folders are
            the classes, sorted by name.
        min_images: Fewest readable pictures of a class.

    Raises:
        InvalidDataset: There is no such folder, fewer than two classes, a class of another name than the labels, or
            one with too few pictures.
    """
    found = _class_folders(folder)
    data = Dataset(folder, sorted(found) if unlike is None else unlike.labels, prepare)
    if unlike is not None:
        data._first_of.update(unlike._first_of)
    strange = sorted(set(found) - set(data.labels))
    if strange:
        raise InvalidDataset(f"{folder}: expected only the classes {', '.join(data.labels)}, got {', '.join(strange)}.")
    files = [(path, data.labels.index(label)) for label in sorted(found) for path in _files(folder / label)]
    _read_all(data, files, report)
    few = [f"{label} ({count})" for label, count in data.counts.items() if count < min_images]
    if few:
        hint = f" {len(data.skipped)} files were left out; the first: {_told(data.skipped[0])}" if data.skipped else ""
        raise InvalidDataset(
            f"{folder}: expected at least {min_images} readable pictures of each class, got fewer of "
            f"{', '.join(few)}. Add pictures, or remove those folders.{hint}",
            counts=data.counts,
        )
    return data


def split(data: Dataset, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Part the pictures of each class into training and validation, at least one for the latter; gives indices."""
    training: list[int] = []
    validation: list[int] = []
    for class_id in range(len(data.labels)):
        own = [index for index, target in enumerate(data.targets) if target == class_id]
        kept, taken = train_test_split(own, test_size=max(1, round(fraction * len(own))), random_state=seed)
        training += kept
        validation += taken
    return sorted(training), sorted(validation)


def _class_folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InvalidDataset(f"Expected a folder with one sub-folder of pictures per class, {folder} is none.")
    found = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if len(found) < 2:
        raise InvalidDataset(
            f"{folder}: expected one sub-folder of pictures per class, at least two, got "
            f"{f'only {found[0]!r}' if found else 'none'}. Make {folder}/CLASS/PICTURE.jpg and so on.",
        )
    for name in found:
        if not name.isprintable():
            raise InvalidDataset(f"{folder}: expected folder names that can be printed, got {name!r}. Rename it.")
    return found


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))


def _read_all(data: Dataset, files: list[tuple[Path, int]], report: Report) -> None:
    digest, first_of, room = hashlib.sha256(), data._first_of, CACHE_BYTES

    def look(file: tuple[Path, int]) -> tuple[bytes, Tensor] | str:
        try:
            # Opening a pipe would wait for ever.
            if not file[0].is_file():
                return "It is no regular file."
            content = file[0].read_bytes()
            return hashlib.sha256(content).digest(), data.prepare(_decode(content))
        except InvalidImage as error:
            return error.message
        except OSError as error:
            return f"It cannot be read: {error.strerror or error}."

    with ThreadPoolExecutor(_num_threads()) as pool:
        for done, ((path, class_id), seen) in enumerate(zip(files, pool.map(look, files), strict=True), start=1):
            relative = path.relative_to(data.folder)
            report(f"reading {data.folder.name}", done, len(files), "")
            if isinstance(seen, str):
                data.skipped.append(Skipped(relative, seen))
                continue
            sha256, prepared = seen
            if sha256 in first_of:
                data.skipped.append(Skipped(relative, _copy_of(*first_of[sha256], class_id, data.labels)))
                continue
            first_of[sha256] = (path, class_id)
            if (room := room - prepared.numel() * prepared.element_size()) >= 0:
                data._kept[len(data)] = prepared
            data.paths.append(relative)
            data.targets.append(class_id)
            digest.update(sha256 + data.labels[class_id].encode() + b"\0")
    data.sha256 = digest.hexdigest()


def _copy_of(first: Path, first_class: int, class_id: int, labels: list[str]) -> str:
    other = "" if first_class == class_id else f", which says that it is {labels[first_class]!r}"
    return f"It is a copy of {first}{other}."


def _told(skipped: Skipped) -> str:
    return f"{skipped.path}: {skipped.reason}"


def _decode(content: bytes) -> Image.Image:
    return decode(content, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS).image


def _num_threads() -> int:
    return min(16, os.cpu_count() or 1)
