"""A picture of where a network's cost lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.accounting.layers import Layer, Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "convolution": "#3b75af",
    "1x1 convolution": "#77b5d9",
    "depthwise or grouped": "#1b998b",
    "linear": "#d97a27",
    "attention, matmul": "#b23a48",
    "normalisation": "#8d99ae",
    "pooling": "#8fb339",
    "other": "#c9c9c9",
}
"""Sorts of work, in the order of the legend."""
LABELLED = 26
"""How many layers bear their names."""
LABEL = 26
"""Characters of a name that are shown, its last ones."""


def draw_costs(profile: Profile, path: Path) -> None:
    """Draw multiply-adds, parameters, activations and, where it was measured, time of each layer.

    Args:
        profile: What was counted.
        path: A file that ends in .png, .svg or .pdf.

    Raises:
        OSError: The file cannot be written.
        ValueError: Its ending names no format of pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers = [layer for layer in profile.layers if layer.multiply_adds or layer.parameters or layer.activations]
    measures: list[tuple[str, Callable[[Layer], float]]] = [
        ("multiply-adds (M)", lambda layer: layer.multiply_adds / 1e6),
        ("parameters (M)", lambda layer: layer.parameters / 1e6),
        ("activations (M values)", lambda layer: layer.activations / 1e6),
    ]
    if any(layer.time_ms for layer in layers):
        measures.append(("time (ms)", lambda layer: layer.time_ms or 0.0))
    figure = Figure(figsize=(13, 2.1 * len(measures) + 1.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    every: Any = figure.subplots(len(measures), 1, sharex=True)
    for axes, (title, value) in zip(every, measures, strict=True):
        _draw(axes, layers, title, value)
    _name(every[-1], layers)
    shape = "x".join(map(str, profile.input_shape))
    figure.suptitle(
        f"{profile.model.partition('@')[0]} at {shape}: {profile.multiply_adds / 1e9:.3g} G multiply-adds, "
        f"{profile.parameters / 1e6:.3g} M parameters, {profile.activations / 1e6:.3g} M activations",
        fontsize=12,
    )
    figure.savefig(path)


def _draw(axes: Axes, layers: list[Layer], title: str, value: Callable[[Layer], float]) -> None:
    heights = [value(layer) for layer in layers]
    total = sum(heights) or 1.0
    sorts = [sort_of(layer) for layer in layers]
    for sort, colour in COLOURS.items():
        places = [number for number, found in enumerate(sorts) if found == sort]
        own = sum(heights[place] for place in places)
        if own:
            label = f"{sort} {own / total:.0%}" if own / total >= 0.005 else f"{sort} <1%"
            axes.bar(places, [heights[place] for place in places], width=0.9, color=colour, label=label)
    axes.set_ylabel(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_axisbelow(True)
    axes.set_xlim(-1, len(layers))
    # Beside the bars, where it hides none.
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _name(axes: Axes, layers: list[Layer]) -> None:
    step = max(1, -(-len(layers) // LABELLED))
    places = range(0, len(layers), step)
    names = [layers[place].name or "(network)" for place in places]
    short = [name if len(name) <= LABEL else f"...{name[3 - LABEL :]}" for name in names]
    axes.set_xticks(list(places), short, rotation=40, ha="right")
    axes.tick_params(axis="x", labelsize=7)


def sort_of(layer: Layer) -> str:
    """Sort a row by the kind of its work."""
    lies, kind = layer.windows, layer.kind.lower()
    if lies is not None and lies.in_channels:
        if lies.groups > 1:
            return "depthwise or grouped"
        return "1x1 convolution" if max(lies.kernel) == 1 else "convolution"
    if "matmul" in kind or "attention" in kind or "bmm" in layer.operators:
        return "attention, matmul"
    if layer.multiply_adds:
        return "linear"
    if lies is not None or "pool" in kind:
        return "pooling"
    return "normalisation" if "norm" in kind else "other"
