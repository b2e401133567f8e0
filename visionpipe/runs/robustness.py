"""Accuracy against epsilon, over all attacks of a run."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionpipe.runs.files import write_whole
from visionpipe.runs.labels import Truth
from visionpipe.runs.lock import writable
from visionpipe.runs.report import Summary, SummaryFile
from visionpipe.schemas.results.adversarial import LEVELS, epsilon_text

TABLE, PLOT = "robustness.csv", "robustness.png"
FILES = (TABLE, PLOT)
"""What is written."""
COLUMNS = (
    "epsilon",
    "images",
    "missing",
    "labelled",
    "right",
    "accuracy",
    "changed",
    "changed_share",
    "fooled",
    "fooled_share",
    "mean_linf",
    "mean_l2",
)
"""Of the table."""


@dataclass
class Level:
    """The attacks at one epsilon; at 0 the images themselves."""

    images: int = 0
    labelled: int = 0
    """Images whose true label is known."""
    right: int = 0
    """Labelled images that the network names rightly before and after the attack."""
    changed: int = 0
    """Images of which the network says another class than before."""
    fooled: int = 0
    """Attacks that reached their goal."""
    linf: float = 0.0
    """Sum of the norms."""
    l2: float = 0.0
    """Likewise."""

    @property
    def accuracy(self) -> float | None:
        """Right among the labelled, 0 to 1; ``None`` where no label is known."""
        return self.right / self.labelled if self.labelled else None

    @property
    def changed_share(self) -> float:
        """Changed among all, 0 to 1."""
        return self.changed / max(1, self.images)


class Robustness:
    """Counts how many images withstand each epsilon.

    An image counts as right at an epsilon if the network named it rightly at first and does so still. Without labels
    the share of images counts whose answer changed. An image whose attack was stopped before it came to an epsilon is
    missing there; table, plot and notes tell it, since the shares are then those of other images.
    """

    def __init__(self) -> None:
        self.levels: dict[float, Level] = {}
        self._method = self._norm = ""

    def add(self, result: dict[str, Any], truth: Truth | None) -> None:
        """Take one image's attacks into account; all of a run are of the same kind."""
        self._method, self._norm = result["method"], result["norm"]
        before = result["before"]["label"]
        known_right = truth is not None and before == truth.label
        self._count(0.0, truth, right=known_right)
        for attack in result["attacks"]:
            after = attack["after"]["label"]
            level = self._count(attack["epsilon"], truth, right=known_right and after == before)
            level.changed += after != before
            level.fooled += attack["success"]
            level.linf += attack["norms"]["linf"]
            level.l2 += attack["norms"]["l2"]

    def _count(self, epsilon: float, truth: Truth | None, *, right: bool) -> Level:
        level = self.levels.setdefault(epsilon, Level())
        level.images += 1
        level.labelled += truth is not None
        level.right += right
        return level

    @property
    def curve(self) -> list[tuple[float, Level]]:
        """By rising epsilon."""
        return sorted(self.levels.items())

    @property
    def num_images(self) -> int:
        """All images, attacked at each epsilon or not."""
        return self.levels[0.0].images if self.levels else 0

    @property
    def uneven(self) -> list[tuple[float, Level]]:
        """Where images are missing."""
        return [(epsilon, level) for epsilon, level in self.curve if level.images < self.num_images]

    @property
    def _name(self) -> str:
        return f"{self._method.upper()}, {'L-infinity' if self._norm == 'linf' else 'L2'}"

    @property
    def supervised(self) -> bool:
        """Whether any true label was known."""
        return any(level.labelled for level in self.levels.values())

    def write(self, out: Path) -> Summary | None:
        """Write the table, and the plot where matplotlib is installed."""
        with writable(out):
            for name in FILES:
                (out / name).unlink(missing_ok=True)
            if not self.levels:
                return None
            write_whole(_path(out, TABLE), self._table().encode())
            plot = self._plot()
            if plot is not None:
                write_whole(_path(out, PLOT), plot)
        what = "Accuracy" if self.supervised else "Share of images whose answer changed"
        title = f"{what} against epsilon ({self._name})"
        files = [SummaryFile(name=TABLE, caption=f"{title}, as a table")]
        files += [] if plot is None else [SummaryFile(name=PLOT, caption=title)]
        return Summary(title=title, rows=self._rows(), files=files, notes=self._notes(drawn=plot is not None))

    def _notes(self, *, drawn: bool) -> list[str]:
        notes = []
        if self.uneven:
            counts = ", ".join(
                f"{level.images:,} at {epsilon_text(epsilon, self._norm)}" for epsilon, level in self.uneven
            )
            notes.append(
                f"Of {self.num_images:,} images, not all were attacked at every epsilon, since attacks were stopped "
                f"early: {counts}. The shares there are of these alone and do not compare with the others."
            )
        if not drawn:
            notes.append(f"{PLOT} was not drawn: matplotlib is not installed. Run: pip install matplotlib")
        return notes

    def _rows(self) -> list[dict[str, str]]:
        rows = []
        for epsilon, level in self.curve:
            row = {"epsilon": epsilon_text(epsilon, self._norm), "images": f"{level.images:,}"}
            if self.supervised:
                row |= {"accuracy": "" if level.accuracy is None else f"{level.accuracy:.2%}"}
                row |= {"right": f"{level.right:,} of {level.labelled:,}"}
            rows.append({**row, "changed": f"{level.changed_share:.2%}"})
        return rows

    def _table(self) -> str:
        stream = io.StringIO(newline="")
        table = csv.writer(stream, lineterminator="\r\n")
        table.writerow(COLUMNS)
        for epsilon, level in self.curve:
            fooled = level.fooled / max(1, level.images)
            shares = [level.changed, _short(level.changed_share), level.fooled, _short(fooled)]
            norms = [_short(level.linf / level.images), _short(level.l2 / level.images)]
            right = [level.labelled, level.right, _short(level.accuracy)]
            images = [level.images, self.num_images - level.images]
            table.writerow([epsilon, *images, *right, *shares, *norms])
        return stream.getvalue()

    def _plot(self) -> bytes | None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
            from matplotlib.ticker import PercentFormatter
        except ImportError:
            return None
        figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        scale = LEVELS if self._norm == "linf" else 1
        points = [(scale * epsilon, self._height(level), self._counted(level)) for epsilon, level in self.curve]
        shown = [(x, y, images) for x, y, images in points if y is not None]
        axes.plot([x for x, _, _ in shown], [y for _, y, _ in shown], marker="o", color="#3457d5")
        if len(shown) <= 12:
            for x, y, images in shown:
                text = f"{y:.1%}\nof {images:,}" if self.uneven else f"{y:.1%}"
                axes.annotate(text, (x, y), textcoords="offset points", xytext=(5, 6), fontsize=8)
        axes.margins(x=0.09)
        axes.set_xlim(left=0)
        axes.set_ylim(-0.02, 1.12 if self.uneven else 1.08)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("epsilon, in grey levels of 255" if scale == LEVELS else "epsilon, L2 of values in [0, 1]")
        axes.set_ylabel("accuracy" if self.supervised else "answers changed")
        title = f"{self._name}: {self.num_images:,} image{'' if self.num_images == 1 else 's'}"
        least = min(level.images for level in self.levels.values())
        axes.set_title(f"{title}, of which at some epsilons only {least:,}" if self.uneven else title, fontsize=11)
        axes.grid(alpha=0.3)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue()

    def _height(self, level: Level) -> float | None:
        return level.accuracy if self.supervised else level.changed_share

    def _counted(self, level: Level) -> int:
        return level.labelled if self.supervised else level.images


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _path(out: Path, name: str) -> bytes:
    return os.fsencode(out / name)
