"""The confusion matrix as a picture: which classes are taken for which."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay

MAX_COUNTED = 25
"""With more classes the cells hold no numbers."""
MAX_NAMED = 60
"""With more classes the axes bear no names."""
MAX_NAME = 24
"""Characters of a class's name that are shown."""


def draw_confusion(counts: NDArray[np.int64], labels: Sequence[str], title: str, path: Path) -> None:
    """Write a PNG.

    Args:
        counts: int64 of shape (K, K), the true class by row, the answer by column.
        labels: The K classes.
        title: Above the matrix.
        path: The file.
    """
    num = len(labels)
    side = min(4.5 + 0.42 * num, 14.0)
    figure = Figure(figsize=(side, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = [label if len(label) <= MAX_NAME else f"{label[: MAX_NAME - 3]}..." for label in labels]
    # The shade is the share of a true class, so that rare classes are as legible as common ones; its root, so that
    # single mistakes show.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(shares, display_labels=names)
    display.plot(ax=axes, include_values=False, cmap="Blues", colorbar=False, im_kw={"norm": PowerNorm(0.5, 0, 1)})
    if num <= MAX_COUNTED:
        _write_counts(axes, counts, shares)
    if num > MAX_NAMED:
        axes.set_xticks([])
        axes.set_yticks([])
    else:
        axes.tick_params(axis="x", rotation=0 if max(map(len, names)) * num < 40 else 90, length=0)
        axes.tick_params(axis="y", length=0)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    with warnings.catch_warnings():
        # A class may be named in a script that no font here has; its name is in the card all the same.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(path)


def _write_counts(axes: object, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", color=colour)  # type: ignore[attr-defined]
