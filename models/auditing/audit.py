"""An audit from start to end: pictures in, table, CSV files and strips out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from models.attribution import Method
from models.attribution.strip import Row, draw_strip
from models.auditing import tables
from models.auditing.measuring import AuditOptions, Figures, Outcome, measure
from models.auditing.subject import Subject
from models.auditing.summary import Summary, summarize
from models.errors import ModelError, UnsupportedOption
from models.images import decode

MAX_BYTES = 256 * 2**20
"""Largest file that is read."""
MAX_PIXELS = 178_956_970
"""Largest picture that is decoded."""
MAX_STRIPS = 20
"""Strips that are written: of the first pictures."""


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: Path
    reason: str


@dataclass
class Audit:
    """What an audit found.

    Attributes:
        model: ``name@digest``.
        summaries: One per method.
        figures: One per picture and method.
        skipped: Files that were left out.
        files: Files that were written.
        output: Where they are.
    """

    model: str
    summaries: list[Summary] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    output: Path | None = None

    @property
    def num_images(self) -> int:
        """Pictures that were audited."""
        return len({one.image for one in self.figures})

    def title(self) -> str:
        """Say what the table is of."""
        number = self.num_images
        return f"{self.model}, {number} picture{'s' * (number != 1)}; similarities are those with all layers random"

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "model": self.model,
            "num_images": self.num_images,
            "methods": [tables.to_json(summary) for summary in self.summaries],
            "skipped": [{"path": str(one.path), "reason": one.reason} for one in self.skipped],
            "files": [str(path) for path in self.files],
        }


def audit(
    subject: Subject,
    images: Sequence[Path],
    options: AuditOptions,
    *,
    output: Path | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Audit methods on pictures of one file or many.

    Args:
        subject: The model.
        images: Files, or folders that are searched to their bottom.
        options: What to audit.
        output: Where ``methods.csv``, ``images.csv``, ``depths.csv`` and ``strips/`` are written, if anywhere.
        report: Told how many attributions are done, and of how many.

    Raises:
        UnsupportedOption: No picture can be read, or there is no such class.
    """
    made = Audit(subject.entry.target, output=output)
    faults: dict[Method, str] = {}
    paths, per_image = list(_files(images)), len(options.methods)
    for index, path in enumerate(paths):
        report(index * per_image, len(paths) * per_image)
        picture = _read(path, made)
        if picture is None:
            continue
        outcomes: list[Outcome] = []
        for outcome in measure(subject, picture, str(path), options):
            outcomes.append(outcome)
            report(index * per_image + len(outcomes), len(paths) * per_image)
        made.figures += [outcome.figures for outcome in outcomes if outcome.figures is not None]
        faults |= {outcome.method: outcome.fault for outcome in outcomes if outcome.fault is not None}
        _save_strip(outcomes, path, made)
    if not made.figures and not faults:
        raise UnsupportedOption(f"Expected at least one picture that can be read, got {_listed(made.skipped)}.")
    report(len(paths) * per_image, len(paths) * per_image)
    for method in options.methods:
        figures = [one for one in made.figures if one.method == method]
        made.summaries.append(summarize(method, figures, faults.get(method)))
    if output is not None:
        _write_tables(made, output)
    return made


def strip_of(outcomes: Sequence[Outcome], title: str, *, cell_px: int = 104) -> Image.Image | None:
    """Draw all methods of one picture as rows; ``None`` where no network was randomized."""
    rows = [Row(outcome.method.replace("_", " "), outcome.sanity) for outcome in outcomes if outcome.sanity]
    pictures = [outcome.picture for outcome in outcomes if outcome.picture is not None]
    return draw_strip(pictures[0], rows, title=title, cell_px=cell_px) if rows else None


def _files(images: Sequence[Path]) -> Iterator[Path]:
    for path in images:
        path = path.expanduser()
        if not path.is_dir():
            yield path
            continue
        inside = (found.relative_to(path) for found in path.rglob("*") if found.is_file())
        yield from (path / found for found in sorted(inside) if not any(part[0] == "." for part in found.parts))


def _read(path: Path, made: Audit) -> Image.Image | None:
    try:
        return decode(path.read_bytes(), max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS).image
    except ModelError as error:
        made.skipped.append(Skipped(path, error.message))
    except OSError as error:
        made.skipped.append(Skipped(path, error.strerror or str(error)))
    return None


def _save_strip(outcomes: Sequence[Outcome], path: Path, made: Audit) -> None:
    """Draw the first pictures' strips, where there is a folder for them."""
    if made.output is None or len(made.files) == MAX_STRIPS:
        return
    strip = strip_of(outcomes, f"{made.model}: {path.name}")
    if strip is None:
        return
    folder = made.output / "strips"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{len(made.files) + 1:02d}-{path.stem}")
    strip.save(folder / f"{name}.png", optimize=True)
    made.files.append(folder / f"{name}.png")


def _write_tables(made: Audit, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    written = [output / "methods.csv", output / "images.csv"]
    tables.write_methods(made.summaries, written[0])
    tables.write_images(made.figures, written[1])
    if any(one.depths for one in made.figures):
        written.append(output / "depths.csv")
        tables.write_depths(made.figures, written[2])
    made.files[:0] = written


def _listed(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return "an empty folder"
    return "; ".join(f"{one.path}: {one.reason}" for one in skipped[:3])
