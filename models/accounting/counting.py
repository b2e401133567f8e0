"""Counts what a network costs by running it once, with hollow tensors where that is possible."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.accounting import untrained
from models.accounting.layers import Profile
from models.accounting.ledger import Ledger
from models.catalog import Entry
from models.errors import ModelLoadFailed, UnsupportedOption

PICTURE_HW = (480, 640)
"""Input of networks that take pictures of any size, unless told otherwise."""
FAULTS = (RuntimeError, ValueError, TypeError, NotImplementedError, AttributeError, IndexError, AssertionError)
"""What networks raise when their input's size is not for them, or when they need values and there are none."""


def input_shape(entry: Entry) -> tuple[int, int, int]:
    """Give the shape (C, H, W) of a model's ordinary input."""
    preprocess = entry.card.preprocess
    channels = len(preprocess.mode)
    if preprocess.input_size_hw is not None:
        return (channels, *preprocess.input_size_hw)
    if isinstance(preprocess.resize, int):
        return (channels, preprocess.resize, preprocess.resize)
    return (channels, *PICTURE_HW)


def profile(entry: Entry, shape: tuple[int, int, int] | None = None, *, follow: bool = True) -> Profile:
    """Count what a model costs for one picture; its weights need not be here.

    Args:
        entry: The model.
        shape: (C, H, W) of the network's input; absent: the card's.
        follow: Whether to compute receptive fields, too.

    Raises:
        ModelLoadFailed: The network's own code cannot be found or fails.
        UnsupportedOption: The network does not take such an input.
    """
    shape = shape or input_shape(entry)
    ledger, notes = _hollow(entry, shape, follow), []
    if ledger is None:
        ledger = _real(entry, shape, follow)
        notes.append(
            "It ran on a picture of noise: where its course depends on what it sees, counts hold for that run."
        )
    return Profile(
        model=entry.target,
        input_shape=shape,
        layers=ledger.layers,
        unused_parameters=ledger.unused_parameters,
        peak_activations=ledger.peak + math.prod(shape),
        published=_published(entry),
        notes=notes,
    )


def count(network: nn.Module, x_NCHW: Tensor, *, follow: bool = True) -> Ledger:
    """Run a network once and book what it does.

    Args:
        network: In eval mode.
        x_NCHW: One input, on the network's device.
        follow: Whether to compute receptive fields, too.

    Returns:
        The rows, in the order in which they ran.
    """
    ledger = Ledger(network, follow=follow)
    with torch.inference_mode(), _attention_in_parts():
        images = x_NCHW.clone()
        ledger.watch(images)
        with ledger:
            network(images)
    return ledger


def _hollow(entry: Entry, shape: tuple[int, int, int], follow: bool) -> Ledger | None:
    if "detection" in entry.card.tasks:
        # What they find decides what they do next.
        return None
    try:
        network = untrained.build_hollow(entry)
    except ModelLoadFailed:
        # Some builders run the network, or look at its values.
        network = untrained.build_real(entry).to("meta")
    try:
        return count(network, torch.empty(1, *shape, device="meta"), follow=follow)
    except FAULTS as error:
        if entry.source == "torchvision":
            raise _refused(entry, shape, error) from error
        # Whether it needs values, or dislikes the input, a run with values will tell.
        return None


def _real(entry: Entry, shape: tuple[int, int, int], follow: bool) -> Ledger:
    network = untrained.build_real(entry)
    torch.manual_seed(0)
    try:
        return count(network, torch.rand(1, *shape), follow=follow)
    except FAULTS as error:
        raise _refused(entry, shape, error) from error


def _refused(entry: Entry, shape: tuple[int, int, int], error: Exception) -> UnsupportedOption:
    least, ordinary = entry.card.cost.min_size_hw, "x".join(map(str, input_shape(entry)))
    hint = f" It takes no less than {least[0]}x{least[1]}." if least else ""
    return UnsupportedOption(
        f"Expected an input that {entry.name} accepts, got {'x'.join(map(str, shape))} (CxHxW): "
        f"{type(error).__name__}: {error}.{hint} Its ordinary input is {ordinary}.",
        model=entry.name,
    )


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Keep torch from running attention as one operator, of which nothing can be told."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _published(entry: Entry) -> dict[str, float]:
    cost = entry.card.cost
    known = {"num_params": cost.num_params, "gflops": cost.gflops}
    return {name: float(value) for name, value in known.items() if value is not None}
