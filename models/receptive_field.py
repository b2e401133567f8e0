"""Which pixels of the input a position inside a network depends on.

The network runs once, and every aten operator passes boxes on (Araujo, Norris, Sim: Computing Receptive Fields of
Convolutional Neural Networks, Distill 2019, gives the arithmetic of a chain). So branches, skip connections, functional
code, attention in windows and transposed convolutions come out right. Operators that mix all positions, or that are not
known, give the whole input.

Coordinates are continuous: pixel (0, 0) covers the square from 0 to 1, so a box of the whole input ends at its size.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from models.errors import UnknownLayer
from models.features import check_layer, position_axes
from models.receptive.rules import EMPTY, UNCUT, Field, settled, squashed
from models.receptive.tracker import Tracker

BoxXYXY = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the input."""


@dataclass(frozen=True)
class ReceptiveField:
    """What the positions of one module's output see of the network's input.

    A position counts as seeing all that any of its channels sees.
    """

    layer: str
    """Dotted name of the module."""
    shape: tuple[int, ...]
    """Of its output."""
    positions_hw: tuple[int, int]
    """Rows and columns of the output: those of a feature map (N, C, H, W) or (N, H, W, C), (L, 1) for tokens (N, L, D),
    (1, 1) for anything else."""
    size_hw: tuple[int, int]
    """Height and width of the widest receptive field, not cut at the input's border. Once an operator has mixed all
    positions, as global pooling, squeeze and excitation, or attention do: the input's own size."""
    stride_hw: tuple[float, float]
    """By how many pixels it moves from one row or column to the next, on average; 0 where there is but one, and where
    all see the whole input because an operator has mixed all positions."""
    start_yx: tuple[float, float]
    """Top and left of position (0, 0), not cut at the border, so possibly negative."""
    input_hw: tuple[int, int]
    """Height and width of the network's input."""
    boxes: Tensor = field(repr=False)
    """int32 of shape (2, 4, rows, columns): top, left, -bottom, -right; first cut at the border, then uncut."""

    @property
    def centre_yx(self) -> tuple[float, float]:
        """The middle of position (0, 0)'s receptive field, not cut at the border."""
        left, top, right, bottom = self.box_xyxy(0, 0, cut=False)
        return (top + bottom) / 2, (left + right) / 2

    @property
    def sees_all(self) -> bool:
        """Whether every position sees the whole input."""
        whole = torch.tensor([0, 0, -self.input_hw[0], -self.input_hw[1]], dtype=torch.int32)
        return bool((self.boxes[0] <= whole[:, None, None]).all())

    def box_xyxy(self, y: int, x: int, *, cut: bool = True) -> BoxXYXY:
        """Give the box that a position depends on; nothing outside of it can change the position's values.

        Args:
            y: Row of the output, or the token's number; negative ones count from the end.
            x: Column of the output; 0 for tokens and vectors.
            cut: Leave out what lies beyond the input's border, where padding is; else the box keeps its full size.

        Returns:
            Left, top, right, bottom in pixels of the input; all 0 for a position that depends on no pixel.

        Raises:
            UnknownLayer: There is no such position.
        """
        for name, value, count in (("row", y, self.positions_hw[0]), ("column", x, self.positions_hw[1])):
            if not -count <= value < count:
                raise UnknownLayer(
                    f"Expected a {name} of {self.layer!r} from 0 to {count - 1}, got {value}.", layer=self.layer
                )
        top, left, bottom, right = (int(number) for number in self.boxes[0 if cut else 1, :, y, x])
        if EMPTY in (top, left, bottom, right):
            return 0.0, 0.0, 0.0, 0.0
        return float(left), float(top), float(-right), float(-bottom)


def receptive_field(network: nn.Module, x_NCHW: Tensor, layer: str) -> ReceptiveField:
    """Compute the receptive field of one module's output; see ``receptive_fields``.

    Raises:
        UnknownLayer: The network has no such module, or it does not run, or gives no tensor.
    """
    check_layer(network, layer)
    found = receptive_fields(network, x_NCHW, layers=[layer])
    if layer not in found:
        raise UnknownLayer(f"Expected {layer!r} to run and to give a tensor, it did not.", layer=layer)
    return found[layer]


def receptive_fields(
    network: nn.Module, x_NCHW: Tensor | Sequence[Tensor], *, layers: Iterable[str] | None = None
) -> dict[str, ReceptiveField]:
    """Run a network once and compute the receptive field of every module's output.

    Args:
        network: In eval mode, on any device; it is left as it was.
        x_NCHW: One input, on the network's device, or what the network takes instead: a list of (C, H, W). Its values
            only matter to networks whose course depends on them.
        layers: Dotted names of the modules wanted; absent: all.

    Returns:
        By dotted name, in the order in which the modules finish; a module that runs several times is given as it ran
        first. Modules that do not run or give no tensor are missing.
    """
    names = {module: name for name, module in network.named_modules() if name}
    wanted = set(names.values() if layers is None else layers)
    found: dict[str, ReceptiveField] = {}
    tracker = Tracker()

    def take(module: nn.Module, _: Any, output: Any) -> None:
        name = names[module]
        value = main_tensor(output)
        if name not in found and value is not None:
            with tracker.paused():
                found[name] = measured(name, value.shape, tracker.field(value), tracker.size_hw)

    with ExitStack() as stack:
        for module, name in names.items():
            if name in wanted:
                stack.callback(module.register_forward_hook(take).remove)
        stack.enter_context(torch.inference_mode())
        # Tensors of the caller's may not be written to, nor are they followed through views.
        images = x_NCHW.clone() if isinstance(x_NCHW, Tensor) else [image.clone() for image in x_NCHW]
        tracker.watch(images)
        stack.enter_context(tracker)
        network(images)
    return found


def main_tensor(output: Any) -> Tensor | None:
    """Give the tensor that matters most in what a module puts out: the first one."""
    leaves = tree_leaves(dict(output) if isinstance(output, Mapping) else output)
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)


def measured(layer: str, shape: torch.Size, found: Field | None, size_hw: tuple[int, int]) -> ReceptiveField:
    """Condense the field of one tensor to its positions.

    Args:
        layer: Name for the result.
        shape: Of the tensor.
        found: Its field; ``None`` where it depends on no pixel.
        size_hw: Height and width of the network's input.
    """
    coordinates = found or [torch.full((), EMPTY, dtype=torch.int32).expand(shape)] * (2 * UNCUT)
    axes = _position_axes(coordinates, shape, size_hw)
    maps = torch.unflatten(torch.stack([_over_others(one, axes) for one in coordinates]), 0, (2, UNCUT))
    maps[1] = settled(maps[1], size_hw)
    top, left, bottom, right = maps[1].double()
    seen = (maps[1] != EMPTY).all(0)
    on_grid = len(axes) == 2 and bool(seen.all())
    return ReceptiveField(
        layer=layer,
        shape=tuple(shape),
        positions_hw=(top.shape[0], top.shape[1]),
        size_hw=(_widest(-bottom - top, seen), _widest(-right - left, seen)),
        stride_hw=(_step(top[:, 0]), _step(left[0])) if on_grid else (0.0, 0.0),
        start_yx=(float(top[0, 0]), float(left[0, 0])) if bool(seen[0, 0]) else (0.0, 0.0),
        input_hw=size_hw,
        boxes=maps,
    )


def _widest(lengths: Tensor, seen: Tensor) -> int:
    return int(lengths[seen].max()) if bool(seen.any()) else 0


def _position_axes(coordinates: Field, shape: torch.Size, size_hw: tuple[int, int]) -> tuple[int, ...]:
    if len(shape) != 4:
        return (1,) if len(shape) == 3 else ()
    # Transformers in windows keep channels last; boxes tell where they differ, else the shape must.
    last, first = (any(_varies(one, axis) for one in coordinates) for axis in (3, 1))
    if first == last:
        return position_axes(shape, size_hw)
    return (2, 3) if last else (1, 2)


def _varies(coordinate: Tensor, axis: int) -> bool:
    small = squashed(coordinate)
    return small.shape[axis] > 1 and not torch.equal(small.narrow(axis, 0, 1).expand_as(small), small)


def _over_others(coordinate: Tensor, axes: tuple[int, ...]) -> Tensor:
    small = squashed(coordinate)
    others = [axis for axis in range(small.ndim) if axis not in axes]
    merged = small.amin(others) if others else small
    lengths = [coordinate.shape[axis] for axis in axes]
    merged = merged.expand(lengths)
    return merged.reshape([*lengths, *[1] * (2 - len(axes))]).contiguous()


def _step(starts: Tensor) -> float:
    return float((starts[-1] - starts[0]) / (len(starts) - 1)) if len(starts) > 1 else 0.0
