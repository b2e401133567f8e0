"""Fills in what the cards do not say: multiply-adds at another resolution, latency on this device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from models.choosing.candidates import Candidate
from models.choosing.verdicts import Budget, faults
from models.errors import ModelError
from models.measurements import Measurement, Measurements

Report = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and of how many."""


@dataclass(frozen=True)
class Circumstances:
    """Under which a latency holds."""

    device: str
    """As it was asked for: auto, cpu, cuda:N."""
    precision: str
    """The arithmetic."""
    batch: int
    """Pictures at once."""
    runs: int = 5
    """Of which the median counts."""


def at_resolution(candidates: Sequence[Candidate], resolution: int, report: Report) -> list[Candidate]:
    """Count the multiply-adds anew for square inputs of another size.

    Args:
        candidates: With the costs of their cards.
        resolution: Height and width in pixels.
        report: Called for each of them.

    Returns:
        The same, with counted costs; a network that does not take such inputs says so in ``fault``.
    """
    from models.accounting.counting import profile

    counted: dict[Any, tuple[float | None, str | None]] = {}
    found = []
    for number, one in enumerate(candidates):
        report(f"Counting {one.name}", number, len(candidates))
        card = one.entry.card
        # Several weights of one network cost the same.
        key = (one.entry.source, card.network, repr(card.arguments), one.num_params, card.preprocess.mode)
        if one.input_hw != (resolution, resolution) and key not in counted:
            shape = (len(card.preprocess.mode), resolution, resolution)
            try:
                counted[key] = profile(one.entry, shape, follow=False).multiply_adds / 1e9, None
            except ModelError:
                counted[key] = None, f"it does not take {resolution}x{resolution} pixels"
        gflops, fault = (one.gflops, None) if one.input_hw == (resolution, resolution) else counted[key]
        found.append(replace(one, input_hw=(resolution, resolution), gflops=gflops, fault=fault))
    return found


def with_latencies(
    candidates: Sequence[Candidate],
    kept: Measurements,
    circumstances: Circumstances,
    *,
    budget: Budget,
    measure: bool,
    report: Report,
) -> list[Candidate]:
    """Look latencies up, and measure those that are missing where that is asked for.

    Args:
        candidates: The models.
        kept: What was measured before.
        circumstances: Device, precision and batch.
        budget: Only what keeps to its other limits is measured.
        measure: Whether to measure at all.
        report: Called for each that is measured.

    Returns:
        The same, with latencies; a network that cannot be timed says so in ``fault``.
    """
    from models.accounting.device import device_name
    from models.accounting.timing import measure as measure_model
    from models.devices import pick_device

    device = pick_device(circumstances.device)
    known = {one.key: one for one in kept.all()}
    others = replace(budget, latency_ms=None)
    found = []
    for number, one in enumerate(candidates):
        shape = shape_of(one)
        key = (one.entry.target, shape, device_name(device), circumstances.precision, circumstances.batch)
        before = known.get(key)
        latency_ms = None if before is None else before.latency_ms
        if latency_ms is None and measure and not faults(one, others):
            report(f"Timing {one.name}", number, len(candidates))
            try:
                timed = measure_model(
                    one.entry, shape, device, precision=circumstances.precision, batch=circumstances.batch,
                    runs=circumstances.runs, layers=False,
                )  # fmt: skip
            except ModelError as error:
                found.append(replace(one, fault=f"it could not be timed: {error.message.rstrip('.')}"))
                continue
            kept.add(Measurement.of(one.entry.target, shape, timed))
            latency_ms = timed.total_ms
        found.append(one.with_latency(latency_ms, as_served=before is not None and before.by == "bench"))
    return found


def shape_of(one: Candidate) -> tuple[int, int, int]:
    """Give the shape (C, H, W) at which a candidate is measured."""
    from models.accounting.counting import input_shape

    shape = input_shape(one.entry)
    return shape if one.input_hw is None else (shape[0], *one.input_hw)
