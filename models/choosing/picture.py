"""Quality against cost, with the front that nothing beats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models.choosing.candidates import Field
from models.choosing.verdicts import Budget, Verdict, costs_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 14
"""Models of the front that bear their names."""
WIDE = 20
"""From which ratio of the largest to the smallest cost on powers of ten alone are numbered."""


def draw_front(field: Field, verdicts: Sequence[Verdict], budget: Budget, path: Path) -> None:
    """Draw every candidate, the front, the limits and the choice.

    Args:
        field: What was compared.
        verdicts: Of its candidates.
        budget: The limits.
        path: A file that ends in .png, .svg or .pdf.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cost = costs_of(budget)[0]
    figure = Figure(figsize=(10, 6.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    scale = 1e6 if cost.name == "M parameters" else 1.0
    known = [(one, value / scale) for one in verdicts if (value := cost.value(one.candidate)) is not None]
    percent = 100 if field.unit else 1
    _points(axes, known, percent)
    limit = cost.limit(budget)
    if limit is not None:
        axes.axvline(limit / scale, color="#b23a48", linestyle="--", linewidth=1)
        axes.annotate(f" budget {limit / scale:g}", (limit / scale, 0.01), xycoords=("data", "axes fraction"),
                      color="#b23a48", fontsize=9)  # fmt: skip
    if budget.min_accuracy is not None:
        axes.axhline(percent * budget.min_accuracy, color="#b23a48", linestyle="--", linewidth=1)
    _scale(axes, [x for _, x in known])
    axes.set_xlabel({"ms": "latency (ms)", "GFLOPs": "GFLOPs (10⁹ multiply-adds)"}.get(cost.name, cost.name))
    axes.set_ylabel(f"{field.metric} (%)" if field.unit else field.metric)
    axes.set_title(f"{field.metric} on {field.data}, {len(known)} models", fontsize=11)
    axes.grid(linewidth=0.4, alpha=0.5, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.savefig(path)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(plain)
    if values and max(values) < WIDE * max(min(values), 1e-9):
        axes.xaxis.set_minor_formatter(plain)


def _outline(known: Sequence[tuple[Verdict, float]], percent: int) -> list[tuple[float, float, Verdict]]:
    """Those that are better than everything that costs less, by the one cost that is drawn."""
    outline: list[tuple[float, float, Verdict]] = []
    for one, x in sorted(known, key=lambda pair: (pair[1], -pair[0].candidate.quality)):
        if one.candidate.fault is None and (not outline or percent * one.candidate.quality > outline[-1][1]):
            outline.append((x, percent * one.candidate.quality, one))
    return outline


def _points(axes: Axes, known: Sequence[tuple[Verdict, float]], percent: int) -> None:
    for fits, colour, label in ((False, "#c4c4c4", "breaks a limit"), (True, "#3b75af", "fits")):
        some = [(x, one.candidate.quality) for one, x in known if one.fits is fits]
        if some:
            axes.scatter(
                [x for x, _ in some], [percent * y for _, y in some], s=18, color=colour, label=label, zorder=2
            )
    front = _outline(known, percent)
    axes.plot(
        [x for x, _, _ in front], [y for _, y, _ in front], color="#d97a27", linewidth=1.3, label="front", zorder=1
    )
    step = max(1, -(-len(front) // NAMED))
    for number, (x, y, one) in enumerate(front):
        chosen = one.reason.startswith("chosen")
        if chosen:
            axes.scatter([x], [y], s=190, marker="*", color="#d97a27", edgecolor="black", label="chosen", zorder=4)
        if chosen or number % step == 0:
            # Names lie above the front, where no model is; the cheapest one's would lie across the axis.
            side, shift = ("left", (7, -12)) if number == 0 else ("right", (-6, 5))
            axes.annotate(one.candidate.name, (x, y), xytext=shift, textcoords="offset points", ha=side,
                          fontsize=8, weight="bold" if chosen else "normal")  # fmt: skip
