"""The picture of ``tests.bench.growth``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

COLOURS = {
    "worker": "#3b75af", "client": "#1b998b", "redis": "#b23a48", "idle": "#8d99ae", "p50": "#d97a27",
    "short_worker": "#a9c3de", "short_redis": "#dfaab1",
}  # fmt: skip
NAMES = {
    "worker": "worker", "client": "client", "redis": "Redis", "idle": "worker, idle", "p50": "p50 of a job",
    "short_worker": "beside it, of 1,000", "short_redis": "beside it, of 1,000",
}  # fmt: skip

Rows = Sequence[Mapping[str, float]]


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw memory against batch, queue and run length, and below it what an image takes.

    Args:
        found: What ``growth.json`` holds.
        path: The PNG to write.
    """
    figure = Figure(figsize=(13, 6.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(2, 3)
    model = found["about"]["batch_model"].partition("-")[0]
    _memory(every[0][0], found["batch"], "batch", ("idle", "worker"), f"images in a micro-batch ({model})")
    _memory(every[0][1], found["queue"], "queued", ("worker", "client", "redis"), "jobs waiting in the queue")
    _memory(every[0][2], found["run"], "images", ("worker", "client", "redis"), "images of a folder run")
    # The client only waits there.
    who = ("worker", "short_worker", "redis", "short_redis")
    _costs(every[1][0], found["drain"], "queued", "jobs to work off", "a job takes, ms of a core", who)
    _costs(every[1][1], found["queue"], "queued", "jobs waiting in the queue", "one interactive job takes, ms")
    _costs(every[1][2], found["run"], "images", "images of a folder run", "an image takes, ms of a core")
    figure.suptitle(_said(found), fontsize=10)
    figure.savefig(path)


def _memory(axes: Axes, rows: Rows, length: str, names: Sequence[str], label: str) -> None:
    for name in names:
        axes.plot(
            [row[length] for row in rows], [row[f"{name}_mb"] for row in rows], "o-", color=COLOURS[name],
            label=NAMES[name],
        )  # fmt: skip
    axes.set_ylabel("memory, MiB")
    _dress(axes, rows, length, label)


def _costs(
    axes: Axes, rows: Rows, length: str, label: str, what: str, names: Sequence[str] = ("worker", "client", "redis")
) -> None:
    lengths = [row[length] for row in rows]
    if "p50_ms" in rows[0]:
        axes.plot(lengths, [row["p50_ms"] for row in rows], "o--", color=COLOURS["p50"], label=NAMES["p50"])
    for name in names:
        axes.plot(
            lengths, [row[f"{name}_us"] / 1000 for row in rows], "o-", color=COLOURS[name],
            label=f"{NAMES[name]}, of a core" if "p50_ms" in rows[0] else NAMES[name],
        )  # fmt: skip
    axes.set_ylabel(what)
    _dress(axes, rows, length, label)


def _dress(axes: Axes, rows: Rows, length: str, label: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks([row[length] for row in rows])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    # Room for the legend above the lines.
    axes.set_ylim(0, 1.25 * axes.dataLim.y1)
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=2)


def _said(found: Mapping[str, Any]) -> str:
    queue, run = found["queue"], found["run"]
    per_job = (queue[-1]["redis_mb"] - queue[0]["redis_mb"]) * 2**20 / max(1, queue[-1]["queued"] - queue[0]["queued"])
    return (
        f"A waiting job takes {per_job:,.0f} bytes of Redis; {run[-1]['images']:,} images run at "
        f"{run[-1]['images_per_s']:,.0f} a second. {found['about']['cores']} cores ({found['about']['machine']}), "
        f"{found['about']['date']}{', shortened' if found['about']['quick'] else ''}"
    )
