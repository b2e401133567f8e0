"""How long each module takes on a device."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from models.accounting import untrained
from models.accounting.device import PRECISIONS, Roofline, device_name, measure_roofline, synchronise, timed_s
from models.accounting.layers import Layer, Profile
from models.catalog import Entry
from models.errors import UnsupportedOption


@dataclass
class Measured:
    """What was timed."""

    device: str
    """Name of the device."""
    precision: str
    """The arithmetic."""
    batch: int
    """Pictures at once."""
    runs: int
    """Of which the median is given."""
    total_ms: float
    """For a batch, nothing watching."""
    spread_ms: tuple[float, float]
    """Shortest and longest run."""
    roofline: Roofline | None = None
    """What the device can do at best; ``None`` where layers were not timed."""
    layers_ms: dict[tuple[str, int], float] = field(default_factory=dict)
    """By name and run of a module: its time without that of the modules inside it."""

    @property
    def sum_ms(self) -> float:
        """Of all layers."""
        return sum(self.layers_ms.values())


def measure(
    entry: Entry,
    shape: tuple[int, int, int],
    device: torch.device,
    *,
    precision: str = "fp32",
    batch: int = 1,
    runs: int = 10,
    layers: bool = True,
) -> Measured:
    """Time a model; where its weights are not here an untrained one does, for it takes the same time.

    Args:
        entry: The model.
        shape: (C, H, W) of its input.
        device: Where.
        precision: The arithmetic.
        batch: Pictures at once.
        runs: Counted runs; one more comes first.
        layers: Time each layer, too, and the device's peaks.

    Raises:
        ModelLoadFailed: The network's own code cannot be found or fails.
        UnsupportedOption: The network does not run like that.
    """
    network = untrained.build_real(entry).to(device, PRECISIONS[precision])
    torch.manual_seed(0)
    inputs = torch.rand(batch, *shape).to(device, PRECISIONS[precision])
    with torch.inference_mode():
        try:
            times = [1000 * seconds for seconds in timed_s(lambda: network(inputs), device, runs)]
        except Exception as error:  # the network's own code may raise anything
            raise UnsupportedOption(
                f"Expected {entry.name} to run in {precision} on {device} with {batch} picture(s) of "
                f"{'x'.join(map(str, shape))}, it raised {type(error).__name__}: {error}. "
                "Try --precision fp32, a smaller --batch or its ordinary --input.",
                model=entry.name,
            ) from error
        measured = Measured(
            device_name(device), precision, batch, runs, statistics.median(times), (min(times), max(times))
        )
        if layers:
            measured.layers_ms = _by_module(network, inputs, device, runs)
            measured.roofline = measure_roofline(device, precision)
    return measured


def _by_module(
    network: nn.Module, inputs: torch.Tensor, device: torch.device, runs: int
) -> dict[tuple[str, int], float]:
    watch = _Watch(network, device)
    with ExitStack() as stack:
        watch.attach(stack)
        every: dict[tuple[str, int], list[float]] = defaultdict(list)
        for number in range(runs + 1):
            watch.reset()
            network(inputs)
            if number:
                for key, seconds in watch.own_s.items():
                    every[key].append(1000 * seconds)
    return {key: statistics.median(times) for key, times in every.items()}


class _Watch:
    """Takes the time of each run of each module, less that of the modules that ran inside it."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._names = {module: name for name, module in network.named_modules()}
        self._device = device
        self.reset()

    def reset(self) -> None:
        self.own_s: dict[tuple[str, int], float] = {}
        self._calls: dict[nn.Module, int] = {}
        self._running: list[tuple[tuple[str, int], float, float]] = []

    def attach(self, stack: ExitStack) -> None:
        for module in self._names:
            stack.callback(module.register_forward_pre_hook(self._begin).remove)
            stack.callback(module.register_forward_hook(self._finish).remove)

    def _begin(self, module: nn.Module, _: Any) -> None:
        synchronise(self._device)
        call = self._calls[module] = self._calls.get(module, -1) + 1
        self._running.append(((self._names[module], call), time.perf_counter(), 0.0))

    def _finish(self, module: nn.Module, _: Any, __: Any) -> None:
        synchronise(self._device)
        key, start, inside = self._running.pop()
        whole = time.perf_counter() - start
        self.own_s[key] = whole - inside
        if self._running:
            parent, started, before = self._running[-1]
            self._running[-1] = (parent, started, before + whole)


def assign(profile: Profile, measured: Measured) -> None:
    """Write the times into a profile's rows: into the first one of each run of a module."""
    for layer in profile.layers:
        layer.time_ms = measured.layers_ms.get((layer.name, layer.call)) if layer.part == 0 else None


@dataclass(frozen=True)
class Share:
    """How near a run of a module comes to what the device can do."""

    intensity: float
    """Multiply-adds per byte."""
    bound: str
    """``compute`` or ``memory``: what limits it at best."""
    share: float
    """Attainable time divided by the measured one; above 1 where caches beat the memory."""


def shares(profile: Profile, measured: Measured) -> dict[tuple[str, int], Share]:
    """Set each run of a module against the roofline."""
    roofline = measured.roofline
    if roofline is None:
        return {}
    whole: dict[tuple[str, int], list[Layer]] = defaultdict(list)
    for layer in profile.layers:
        whole[layer.name, layer.call].append(layer)
    found = {}
    for key, rows in whole.items():
        milliseconds = measured.layers_ms.get(key)
        num_bytes = sum(moved_bytes(row, measured) for row in rows)
        if milliseconds and num_bytes:
            count = measured.batch * sum(row.multiply_adds for row in rows)
            intensity = count / num_bytes
            bound = "compute" if intensity >= roofline.ridge else "memory"
            found[key] = Share(intensity, bound, roofline.attainable_s(count, num_bytes) / (milliseconds / 1000))
    return found


def moved_bytes(layer: Layer, measured: Measured) -> float:
    """Bytes that a row reads and writes for a batch: activations for each picture, weights once."""
    width = PRECISIONS[measured.precision].itemsize / 4
    return width * (measured.batch * (layer.bytes_moved - layer.weight_bytes) + layer.weight_bytes)
