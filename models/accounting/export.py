"""A profile as JSON values and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.accounting.layers import Profile
from models.accounting.separable import separable_pairs
from models.accounting.timing import Measured, shares


def as_facts(profile: Profile, measured: Measured | None) -> dict[str, Any]:
    """Give everything as JSON values."""
    facts: dict[str, Any] = {
        "model": profile.model,
        "input_shape": profile.input_shape,
        "totals": {
            "parameters": profile.parameters,
            "weights": profile.weights,
            "biases": profile.biases,
            "unused_parameters": profile.unused_parameters,
            "multiply_adds": profile.multiply_adds,
            "activations": profile.activations,
            "peak_activations": profile.peak_activations,
        },
        "published": profile.published,
        "notes": profile.notes,
        "layers": list(_rows(profile, measured)),
        "separable": [
            asdict(pair) | {"by_formula": pair.by_formula, "full": pair.full, "share": pair.share}
            for pair in separable_pairs(profile.layers)
        ],
    }
    if measured is not None:
        times = asdict(measured)
        del times["layers_ms"]
        facts["measured"] = times | {"sum_ms": measured.sum_ms}
    return facts


def _rows(profile: Profile, measured: Measured | None) -> Iterator[dict[str, Any]]:
    set_against = shares(profile, measured) if measured is not None else {}
    for layer in profile.layers:
        facts = layer.facts()
        found = set_against.get((layer.name, layer.call)) if layer.part == 0 else None
        yield facts | {"roofline": asdict(found) if found is not None else None}


def write_csv(profile: Profile, measured: Measured | None, path: Path) -> None:
    """Write one line per row of the profile.

    Raises:
        OSError: The file cannot be written.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer: csv.DictWriter[str] | None = None
        for facts in _rows(profile, measured):
            flat = dict(_flat(facts))
            if writer is None:
                writer = csv.DictWriter(stream, list(flat))
                writer.writeheader()
            writer.writerow(flat)


def _flat(facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    windows = facts.pop("windows") or {}
    roofline = facts.pop("roofline") or {}
    for name in ("kernel", "stride", "padding", "dilation", "groups"):
        facts[name] = windows.get(name)
    for name in ("intensity", "bound", "share"):
        facts[name] = roofline.get(name)
    for name, value in facts.items():
        separator = " " if name == "operators" else "x"
        yield name, separator.join(map(str, value)) if isinstance(value, (tuple, list)) else value
