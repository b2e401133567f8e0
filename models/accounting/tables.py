"""A profile as tables for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.accounting import timing_tables
from models.accounting.layers import Layer, Profile
from models.accounting.separable import Separable, separable_pairs
from models.accounting.timing import Measured
from models.accounting.words import name_of, scaled

PAIRS_SHOWN = 20
"""Depthwise separable blocks that are listed."""
ANOTHER_INPUT = 0.02
"""From which deviation on a published figure must be that of another size of input."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def show(
    profile: Profile,
    console: Console,
    *,
    everything: bool = False,
    measured: Measured | None = None,
    precision: str = "fp32",
    batch: int = 1,
) -> None:
    """Print the table, the totals, and what separable convolutions save."""
    shown = profile.layers if everything else [layer for layer in profile.layers if _counts(layer)]
    console.print(_table(shown), highlight=False)
    for line in _totals(profile, precision, batch):
        console.print(line, highlight=False)
    hidden = Counter(layer.kind for layer in profile.layers if not everything and not _counts(layer))
    if hidden:
        kinds = ", ".join(f"{count} {kind}" for kind, count in hidden.most_common(4))
        console.print(
            f"[dim]Left out of the table, not of the totals: {sum(hidden.values())} without multiply-adds or windows "
            f"({escape(kinds)}{', ...' if len(hidden) > 4 else ''}); --all shows them.[/]",
            highlight=False,
        )
    for note in profile.notes:
        console.print(f"[yellow]Note:[/] {escape(note)}", highlight=False)
    pairs = separable_pairs(profile.layers)
    if pairs:
        _show_separable(profile, pairs, console, everything=everything)
    if measured is not None:
        timing_tables.show(profile, measured, console, everything=everything)


def _counts(layer: Layer) -> bool:
    return bool(layer.multiply_adds or layer.windows)


def _table(layers: Sequence[Layer]) -> Table:
    lies = [layer.windows for layer in layers if layer.windows is not None]
    columns: list[tuple[str, Any]] = [
        ("kernel", lambda layer: _by(layer.windows and layer.windows.kernel)),
        ("str.", lambda layer: _by(layer.windows and layer.windows.stride)),
        ("pad", lambda layer: _by(layer.windows and layer.windows.padding)),
    ]
    if any(max(one.dilation) > 1 for one in lies):
        columns.append(("dil.", lambda layer: _by(layer.windows and layer.windows.dilation)))
    if any(one.groups > 1 for one in lies):
        columns.append(("groups", lambda layer: str(layer.windows.groups) if layer.windows else ""))
    columns += [
        ("output", lambda layer: "x".join(map(str, layer.output_shape[1:])) or "1"),
        ("sees", _field),
        ("weights", lambda layer: f"{layer.weights:,}" if layer.weights else ""),
        ("biases", lambda layer: f"{layer.biases:,}" if layer.biases else ""),
        ("mult-adds", lambda layer: scaled(layer.multiply_adds)),
        ("activ.", lambda layer: scaled(layer.activations)),
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column("layer", overflow="fold", min_width=10)
    table.add_column("kind", overflow="fold", min_width=8)
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(name_of(layer), escape(layer.kind), *(tell(layer) for _, tell in columns))
    return table


def _by(numbers: Sequence[int] | None) -> str:
    if not numbers:
        return ""
    return str(numbers[0]) if len(set(numbers)) == 1 and len(numbers) > 1 else "x".join(map(str, numbers))


def _field(layer: Layer) -> str:
    size = layer.receptive_field_hw
    if size is None:
        return ""
    return "all" if layer.sees_all else str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _totals(profile: Profile, precision: str, batch: int) -> Iterator[str]:
    shape = "x".join(map(str, profile.input_shape))
    unused = f", {profile.unused_parameters:,} of them unused here" if profile.unused_parameters else ""
    weights, biases = profile.weights, profile.biases
    yield f"[bold]{escape(profile.model)}[/], input {shape} (CxHxW), one picture:"
    yield f"  parameters     [bold]{profile.parameters:,}[/] ({weights:,} weights, {biases:,} biases{unused})"
    published = profile.published.get("gflops")
    told = f", published {published:g} G" if published else ""
    if published and abs(profile.multiply_adds / 1e9 / published - 1) > ANOTHER_INPUT:
        told += " for another input"
    yield f"  multiply-adds  [bold]{profile.multiply_adds / 1e9:.4g} G[/]{told}"
    width = BYTES[precision]
    kept, alive = (_mebibytes(count * width * batch) for count in (profile.activations, profile.peak_activations))
    yield (
        f"  activations    [bold]{profile.activations / 1e6:.4g} M[/] values, the input included: {kept} "
        "if all are kept, as training does"
    )
    yield f"                 {alive} alive at once while it answers, both at batch {batch} in {precision}"
    yield f"  weights' file  {_mebibytes(profile.parameters * width)} in {precision}"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _show_separable(profile: Profile, pairs: Sequence[Separable], console: Console, *, everything: bool) -> None:
    counted, full = sum(pair.multiply_adds for pair in pairs), sum(pair.full for pair in pairs)
    otherwise = profile.multiply_adds - counted + full
    console.print(
        f"\n[bold]Depthwise separable: {counted / full:.1%} of the full convolution[/] "
        f"({scaled(counted)} instead of {scaled(full)} multiply-adds in {len(pairs)} blocks; "
        f"the whole network would take {scaled(otherwise)} instead of {scaled(profile.multiply_adds)})",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column("depthwise, then 1x1", overflow="fold", min_width=16)
    headings = ("D_in", "D_out", "K", "positions", "counted", "formula", "full", "share")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in pairs if everything else pairs[:PAIRS_SHOWN]:
        table.add_row(
            escape(f"{pair.depthwise}, {pair.pointwise}"), str(pair.channels_in), str(pair.channels_out),
            _by(pair.kernel), f"{pair.positions:,}", scaled(pair.multiply_adds), scaled(pair.by_formula),
            scaled(pair.full), f"{pair.share:.1%}",
        )  # fmt: skip
    table.caption = "formula: positions x (D_in K² + D_in D_out); full: positions x D_in D_out K²"
    console.print(table, highlight=False)
