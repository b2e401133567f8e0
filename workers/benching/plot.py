"""Throughput and latency against load, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workers.benching.points import STAGES, Point
from workers.benching.report import BenchReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"rate": "#3b75af", "p50": "#1b998b", "p95": "#d97a27", "p99": "#b23a48", "ceiling": "#8d99ae"}
WIDE = 5
"""Where folder runs or the ceiling are so many times the requests' rate, a straight scale would flatten the latter."""
STAGE_COLOURS = dict(
    zip(
        (*STAGES, "other"),
        ("#8d99ae", "#b9c4d0", "#77b5d9", "#8fb339", "#e3c567", "#3b75af", "#1b998b", "#c9c9c9"),
        strict=True,
    )
)


def draw(report: BenchReport, path: Path) -> None:
    """Draw throughput, latency and where requests' time goes, against load.

    Args:
        report: What was measured.
        path: A file that ends in .png, .svg or .pdf.

    Raises:
        OSError: The file cannot be written.
        ValueError: Its ending names no format of pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    rates, latencies, split = figure.subplots(1, 3)
    _draw_rates(rates, report)
    _draw_latencies(latencies, report.points)
    _draw_split(split, report.points)
    subject = report.subject
    how = f"{subject.precision}, {subject.code.partition(':')[0]}, {subject.device_name or subject.device}"
    figure.suptitle(f"{subject.label}, {subject.task}: {how}", fontsize=11)
    figure.savefig(path)


def _draw_rates(axes: Axes, report: BenchReport) -> None:
    points = report.points
    loads = [_x(point) for point in points]
    axes.plot(loads, [point.images_per_s for point in points], "o-", color=COLOURS["rate"], label="requests")
    if points and points[0].offered_per_s is not None:
        axes.plot(loads, loads, ":", color=COLOURS["ceiling"], label="offered")
    if report.folder is not None:
        axes.axhline(report.folder.images_per_s, color=COLOURS["p50"], linewidth=1.2, label="folder run")
    if report.ceiling is not None:
        axes.axhline(
            report.ceiling.images_per_s, color=COLOURS["ceiling"], linestyle="--", linewidth=1.2, label="ceiling"
        )
    _dress(axes, points, "images a second")
    heights = [point.images_per_s for point in points if point.images_per_s > 0]
    levels = [one.images_per_s for one in (report.folder, report.ceiling) if one is not None]
    if heights and max(heights + levels) > WIDE * max(heights):
        _logarithmic(axes)
    else:
        axes.set_ylim(bottom=0)


def _draw_latencies(axes: Axes, points: Sequence[Point]) -> None:
    for name in ("p99", "p95", "p50"):
        known = [(_x(point), value) for point in points if (value := getattr(point, f"{name}_ms")) is not None]
        axes.plot(*zip(*known, strict=True), "o-", color=COLOURS[name], label=name) if known else None
    _dress(axes, points, "latency, ms")
    _logarithmic(axes)


def _draw_split(axes: Axes, points: Sequence[Point]) -> None:
    timed = [point for point in points if point.stage_ms]
    base = [0.0] * len(timed)
    for stage, colour in STAGE_COLOURS.items():
        heights = [
            100 * max(0.0, point.stage_ms[stage]) / (sum(max(0.0, ms) for ms in point.stage_ms.values()) or 1.0)
            for point in timed
        ]
        axes.bar(range(len(timed)), heights, bottom=base, color=colour, width=0.8, label=stage.replace("_", " "))
        base = [below + height for below, height in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(timed)), [f"{_x(point):g}" for point in timed])
    axes.set_xlabel(_x_label(points))
    axes.set_ylabel("where a request's time goes, %")
    axes.set_ylim(0, 100)
    _plain(axes)
    if timed:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), reverse=True)


def _dress(axes: Axes, points: Sequence[Point], label: str) -> None:
    loads = [_x(point) for point in points]
    if points and points[0].in_flight is not None:
        axes.set_xscale("log", base=2)
    axes.set_xticks(loads, [f"{load:g}" for load in loads])
    axes.minorticks_off()
    axes.set_xlabel(_x_label(points))
    axes.set_ylabel(label)
    _plain(axes)
    if axes.get_legend_handles_labels()[0]:
        # Above the axes, where no curve runs.
        axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _logarithmic(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def _x(point: Point) -> float:
    return float(point.in_flight if point.in_flight is not None else point.offered_per_s or 0.0)


def _x_label(points: Sequence[Point]) -> str:
    return "requests in flight" if not points or points[0].in_flight is not None else "requests offered a second"
