"""How rows and counts are written in tables."""

from __future__ import annotations

from rich.markup import escape

from models.accounting.layers import Layer


def name_of(layer: Layer) -> str:
    """Give a row's name for a table, with the run where a module runs several times."""
    again = f" (run {layer.call + 1})" if layer.call else ""
    return escape(layer.name or "(network)") + again


def scaled(value: float) -> str:
    """Write a count with three or four digits and its unit."""
    if not value:
        return ""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.4g}{unit}" if value / limit < 1000 else f"{value / limit:,.0f}{unit}"
    return f"{value:.0f}"
