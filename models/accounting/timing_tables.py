"""What was timed, as a table for people."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.accounting.layers import Layer, Profile
from models.accounting.timing import Measured, moved_bytes, shares
from models.accounting.words import name_of, scaled

SLOWEST_SHOWN = 20
"""Layers that are listed unless all are asked for."""
BUSY = 1.5
"""How far runs may lie apart on a quiet machine."""


def show(profile: Profile, measured: Measured, console: Console, *, everything: bool) -> None:
    """Print the times of the layers, the total beside their sum, and what the device can do at best."""
    low, high = measured.spread_ms
    console.print(
        f"\n[bold]{measured.total_ms:.4g} ms[/] for a batch of {measured.batch} in {measured.precision} on "
        f"{escape(measured.device)}: median of {measured.runs} runs, {low:.4g} to {high:.4g} ms; "
        f"{1000 * measured.batch / measured.total_ms:.4g} pictures/s. "
        f"Its layers, timed one by one, add up to {measured.sum_ms:.4g} ms.",
        highlight=False,
    )
    if high > BUSY * low:
        console.print("[yellow]Note:[/] the runs differ so much that the machine was busy; time it again.")
    roofline = measured.roofline
    if roofline is None:
        return
    rate = measured.batch * profile.multiply_adds / (measured.total_ms / 1000)
    console.print(
        f"Roofline, measured here: {roofline.multiply_adds_per_s / 1e9:,.0f} G multiply-adds/s and "
        f"{roofline.bytes_per_s / 1e9:,.1f} GB/s, so memory limits below {roofline.ridge:.3g} multiply-adds per byte. "
        f"The network reaches {rate / 1e9:,.3g} G multiply-adds/s, {rate / roofline.multiply_adds_per_s:.0%} of that.",
        highlight=False,
    )
    console.print(_table(profile, measured, everything=everything), highlight=False)


def _table(profile: Profile, measured: Measured, *, everything: bool) -> Table:
    rows: dict[tuple[str, int], list[Layer]] = defaultdict(list)
    for layer in profile.layers:
        rows[layer.name, layer.call].append(layer)
    timed = [key for key in rows if key in measured.layers_ms]
    shown = timed if everything else sorted(timed, key=lambda key: -measured.layers_ms[key])[:SLOWEST_SHOWN]
    set_against = shares(profile, measured)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column("layer" if everything else "slowest layers", overflow="fold", min_width=16)
    table.add_column("kind", overflow="fold", min_width=8)
    for heading in ("ms", "of time", "mult-adds", "bytes", "per byte", "bound by", "of attainable"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key in shown:
        layers, milliseconds, found = rows[key], measured.layers_ms[key], set_against.get(key)
        kinds = dict.fromkeys(layer.kind for layer in layers)
        table.add_row(
            name_of(layers[0]), escape(", ".join(kinds)), f"{milliseconds:.3g}",
            f"{milliseconds / measured.sum_ms:.1%}",
            scaled(measured.batch * sum(layer.multiply_adds for layer in layers)),
            scaled(sum(moved_bytes(layer, measured) for layer in layers)),
            f"{found.intensity:.3g}" if found else "", found.bound if found else "",
            f"{found.share:.0%}" if found else "",
        )  # fmt: skip
    if len(shown) < len(timed):
        table.caption = f"the slowest {len(shown)} of {len(timed)}; --all shows the others"
    return table
