"""Writes the demo's folder: 1,797 handwritten digits, photographs of other things, and broken files."""

from __future__ import annotations

import csv
import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from visionpipe.demo.broken import write_broken
from visionpipe.errors import InvalidRequestError
from visionpipe.runs.scan import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP = "visionpipe.demo"
"""Entry points that lead to labelled pictures, named as the folder they are written to."""


class LabelledPictures(Protocol):
    """What an entry point of the group gives."""

    def pixels(self) -> NDArray[np.uint8]:
        """All pictures, grey: (N, H, W), 0 to 255."""

    def targets(self) -> NDArray[np.int64]:
        """The true class of each: (N,)."""

    def test_split(self) -> NDArray[np.int64]:
        """Indices of those that the model was never trained on."""


@dataclass(frozen=True)
class DemoFolder:
    """What was written."""

    images: Path
    """The folder to run."""
    labels: Path
    """CSV of path, label and split for the digits."""
    num_digits: int
    """Pictures with a known answer."""
    num_photos: int
    """Photographs of things that the model has never seen."""
    num_broken: int
    """Files that cannot be answered."""


def write_demo_folder(out: Path) -> DemoFolder:
    """Write pictures and labels below ``out``.

    Raises:
        InvalidRequestError: A package of the ``demo`` extra is missing.
    """
    images, labels = out / "images", out / "labels.csv"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    try:
        rows = list(_write_digits(images / "digits"))
        broken = write_broken(images / "unusable")
    except ImportError as error:
        raise InvalidRequestError(
            f"The demo needs {error.name}, which is not installed. Run: pip install 'visionpipe[demo]'"
        ) from error
    with labels.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "split"])
        table.writerows(rows)
    return DemoFolder(images, labels, len(rows), _copy_photos(images / "photos"), broken)


def _write_digits(folder: Path) -> Iterator[tuple[str, str, str]]:
    from PIL import Image

    source = _labelled_pictures(folder.name)
    targets, held_out = source.targets().tolist(), set(source.test_split().tolist())
    for label in sorted(set(targets)):
        (folder / str(label)).mkdir(parents=True)
    for index, (pixels_HW, label) in enumerate(zip(source.pixels(), targets, strict=True)):
        name = f"{label}/{index:04}.png"
        Image.fromarray(pixels_HW).save(folder / name)
        yield f"{folder.name}/{name}", str(label), "held out" if index in held_out else "trained on"


def _labelled_pictures(name: str) -> LabelledPictures:
    for entry_point in entry_points(group=GROUP, name=name):
        return cast("LabelledPictures", entry_point.load())
    raise InvalidRequestError(
        f"The demo needs an installed VisionPipe with its {GROUP}:{name} pictures; install it again."
    )


def _copy_photos(folder: Path) -> int:
    """Copy the pictures that scikit-image and ultralytics ship, without importing either."""
    folder.mkdir(parents=True)
    copied = 0
    # Importing ultralytics would write a settings file into the home folder.
    for package, inside in (("skimage", "data"), ("ultralytics", "assets")):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            for picture in sorted((Path(place) / inside).iterdir()):
                if picture.suffix.lower().encode() in IMAGE_SUFFIXES:
                    shutil.copyfile(picture, folder / picture.name)
                    copied += 1
    return copied
