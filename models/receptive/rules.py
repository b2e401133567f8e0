"""How the receptive field of a tensor's values follows from those of an operator's inputs.

A field holds eight coordinates for each value of a tensor. All are written so that the union of two boxes is the
minimum: top, left, minus bottom and minus right, first cut at the input's border, then uncut. ``EMPTY`` stands for a
value that depends on no pixel, ``BORDER`` for an uncut edge that is the input's border, however large the input: what
mixing all positions leads to. Coordinates are int32 and expanded to the tensor's shape, so an axis along which a
coordinate is constant costs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

EMPTY = 2**30
"""Coordinate of a value that no pixel reaches."""
BORDER = -(2**29)
"""Uncut coordinate that no later window moves."""
UNCUT = 4
"""Where the uncut coordinates begin."""
PERIODS = (1, 2, 4, 8, 16, 32)
"""After how many positions a map may repeat its pattern, as those of transposed convolutions do."""

SMALL = 8192
"""Coordinates of fewer values are not worth compacting."""

Field = list[Tensor]
"""Eight coordinates, each of the tensor's own shape."""


@dataclass(frozen=True)
class Call:
    """One call of an operator, as a rule sees it."""

    func: Any
    """The aten operator."""
    arguments: dict[str, Any]
    """What it was called with, by the schema's names."""
    out: Any
    """What it gave."""
    field: Callable[[Any], Field | None]
    """The field of a tensor; ``None`` for what depends on no pixel."""
    size_hw: tuple[int, int]
    """Of the network's input."""

    @property
    def fields(self) -> list[Field]:
        """Those of all arguments that have one."""
        found = [self.field(value) for value in tree_leaves(self.arguments)]
        return [field for field in found if field is not None]


Rule = Callable[[Call], Any]
"""Gives the field of the output, or one for each of several outputs."""


def of_input(shape: Sequence[int]) -> Field:
    """Give the field of the network's input, whose last two axes are rows and columns."""
    rows = torch.arange(shape[-2], dtype=torch.int32)[:, None].expand(tuple(shape))
    columns = torch.arange(shape[-1], dtype=torch.int32).expand(tuple(shape))
    return [rows, columns, (-1 - rows[..., :1]).expand_as(rows), _across(columns, shape)] * 2


def _across(columns: Tensor, shape: Sequence[int]) -> Tensor:
    return (-1 - squashed(columns)).expand(tuple(shape))


def squashed(coordinate: Tensor) -> Tensor:
    """Leave one of each axis along which a coordinate is known to be constant."""
    return coordinate[tuple(slice(0, 1) if step == 0 else slice(None) for step in coordinate.stride())]


def union(fields: Iterable[Field], shape: Sequence[int]) -> Field:
    """Merge fields that broadcast to a shape."""
    columns = zip(*fields, strict=True)
    return [reduce(torch.minimum, (squashed(one) for one in column)).expand(tuple(shape)) for column in columns]


def over_axes(field: Field, axes: Sequence[int], size_hw: tuple[int, int]) -> Field:
    """Merge along whole axes, which keep the length 1; whatever this widens ends at the input's border."""
    bounds = (0, 0, -size_hw[0], -size_hw[1]) * 2
    ends = (0, 0, -size_hw[0], -size_hw[1]) + (BORDER,) * UNCUT
    return [_along(squashed(one), axes, bound, end) for one, bound, end in zip(field, bounds, ends, strict=True)]


def _along(coordinate: Tensor, axes: Sequence[int], bound: int, end: int) -> Tensor:
    if not coordinate.ndim or not axes:
        return coordinate
    merged = coordinate.amin(tuple(axes), keepdim=True)
    if torch.equal(merged.expand_as(coordinate), coordinate):
        return merged
    return torch.where(merged <= bound, end, merged).to(merged.dtype)


def settled(coordinates_4: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Write the input's border for ``BORDER`` in uncut coordinates (4, ...)."""
    bounds = coordinates_4.new_tensor((0, 0, -size_hw[0], -size_hw[1]))
    bounds_4 = bounds.view(-1, *[1] * (coordinates_4.ndim - 1))
    return torch.where(coordinates_4 <= BORDER // 2, bounds_4, coordinates_4)


def through_windows(
    field: Field, axis: int, taps_LK: Tensor, exists_LK: Tensor | None = None, *, length: int | None = None
) -> Field:
    """Merge windows along one axis.

    Args:
        field: Of the input.
        axis: Along which the windows lie.
        taps_LK: int64; the positions that each of L windows reads, also beyond the ends, where padding lies.
        exists_LK: Which of them there are; absent: all.
        length: Of the axis; absent: the field's.
    """
    length = length or field[0].shape[axis]
    exists_LK = torch.ones_like(taps_LK, dtype=torch.bool) if exists_LK is None else exists_LK
    return [_windows(one, axis, taps_LK, exists_LK, length, uncut=index >= UNCUT) for index, one in enumerate(field)]


def _windows(one: Tensor, axis: int, taps_LK: Tensor, exists_LK: Tensor, length: int, *, uncut: bool) -> Tensor:
    small = squashed(one)
    inside_LK = exists_LK & (taps_LK >= 0) & (taps_LK < length)
    seen_LK = exists_LK if uncut else inside_LK
    if small.shape[axis] == 1 and bool(seen_LK.any(1).all()):
        return small
    small = small.expand(*small.shape[:axis], length, *small.shape[axis + 1 :])
    reach = taps_LK[exists_LK] if uncut and exists_LK.any() else taps_LK.new_zeros(1)
    before, after = max(0, -int(reach.min())), max(0, int(reach.max()) - length + 1)
    padded = _extended(small, axis, before, after)
    nothing = torch.full_like(padded.narrow(axis, 0, 1), EMPTY)
    index_LK = torch.where(seen_LK, taps_LK + before, padded.shape[axis])
    taken = torch.cat([padded, nothing], axis).index_select(axis, index_LK.flatten())
    return torch.unflatten(taken, axis, tuple(index_LK.shape)).amin(axis + 1)


def _extended(coordinate: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Continue the pattern of an axis beyond both of its ends."""
    if not before and not after:
        return coordinate
    values = coordinate.movedim(axis, -1)
    length = values.shape[-1]
    period = next((p for p in PERIODS if p < length and _repeats(values, p)), min(1, length - 1))
    if not period:
        return torch.nn.functional.pad(values, (before, after), value=EMPTY).movedim(-1, axis)
    first, last = (
        values[..., period : period + 1] - values[..., :1],
        values[..., -1:] - values[..., -1 - period : -period],
    )
    left, right = torch.arange(before, 0, -1), torch.arange(after)
    turns_left, turns_right = (left + period - 1) // period, right // period + 1
    pieces = [
        _bounded(values[..., turns_left * period - left] - turns_left * first),
        values,
        _bounded(values[..., length + right - turns_right * period] + turns_right * last),
    ]
    return torch.cat(pieces, -1).movedim(-1, axis)


def _bounded(continued: Tensor) -> Tensor:
    # Steps between ordinary coordinates and the marks are too large for int32 once they are taken several times.
    return continued.clamp(BORDER, EMPTY).int()


def _repeats(values: Tensor, period: int) -> bool:
    steps = values[..., period:] - values[..., :-period]
    return bool((steps == steps[..., :1]).all())


def pointwise(call: Call) -> Field:
    """Each value depends on those that broadcasting puts beside it."""
    return union(call.fields, call.out.shape)


def globally(call: Call) -> Field:
    """Every value depends on everything: what is sure for any operator."""
    merged = [over_axes(field, range(field[0].ndim), call.size_hw) for field in call.fields]
    return union([[one.reshape(()) for one in field] for field in merged], ())


def moved(call: Call) -> Any:
    """Values move and stay what they are, so the operator itself moves the coordinates."""

    def apply(index: int) -> Any:
        def swap(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            found = call.field(value)
            return found[index] if found else torch.full((), EMPTY, dtype=torch.int32).expand(value.shape)

        kept = {"index", "indices", "mask"}
        arguments = {
            name: tree_map(_to_cpu, value) if name in kept else tree_map(swap, value)
            for name, value in call.arguments.items()
        }
        return tree_map(_compact, call.func(**arguments))

    answers = [apply(index) for index in range(2 * UNCUT)]
    return answers if isinstance(answers[0], Tensor) else [list(field) for field in zip(*answers, strict=True)]


def _compact(coordinate: Tensor) -> Tensor:
    """Give back the memory of axes along which a coordinate turns out to be constant."""
    for axis in {1, coordinate.ndim - 1} if coordinate.numel() > SMALL else ():
        first = squashed(coordinate).narrow(axis, 0, 1)
        if coordinate.stride(axis) and torch.equal(first.expand_as(squashed(coordinate)), squashed(coordinate)):
            coordinate = first.expand(coordinate.shape)
    return coordinate


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


def reshaped(call: Call) -> Field:
    """Values keep their order."""
    (field,) = call.fields
    return [_compact(_reshaped(one, call.out.shape)) for one in field]


def _reshaped(coordinate: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshape without writing out the last axes, where a coordinate is constant along them."""
    constant = 0
    while constant < coordinate.ndim and coordinate.stride(coordinate.ndim - 1 - constant) == 0:
        constant += 1
    for dropped in range(constant, 0, -1):
        values = math.prod(coordinate.shape[-dropped:])
        for axes in range(1, len(shape) + 1):
            if math.prod(shape[-axes:]) == values:
                first = coordinate.reshape(*coordinate.shape[:-dropped], values)[..., 0]
                return first.reshape(*shape[:-axes], *[1] * axes).expand(tuple(shape))
    return coordinate.reshape(tuple(shape))


def reduced(call: Call) -> Any:
    """One value for each line along some axes: sums, means, maxima."""
    (field,) = call.fields
    ndim, keep = field[0].ndim, bool(call.arguments.get("keepdim", False))
    dim = call.arguments.get("dim")
    dims = list(range(ndim)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    axes = sorted((axis % max(ndim, 1) for axis in dims), reverse=True)
    kept = over_axes(list(field), axes, call.size_hw)
    lengths = [1 if axis in axes else length for axis, length in enumerate(field[0].shape)]
    kept = [one.expand(lengths) for one in kept]
    if not keep:
        for axis in axes:
            kept = [one.squeeze(axis) for one in kept]
    return kept if isinstance(call.out, Tensor) else [kept for _ in call.out]


def along_axis(call: Call) -> Any:
    """Each value depends on the whole line it lies in: softmax, cumulative sums, sorting."""
    (field,) = call.fields
    axis = call.arguments.get("dim", -1) % max(field[0].ndim, 1)
    merged = over_axes(field, [axis], call.size_hw)
    if isinstance(call.out, Tensor):
        return union([merged], call.out.shape)
    return [union([merged], out.shape) for out in call.out]


def numbers(value: Any, count: int, default: Any = None) -> list[int]:
    """Read an argument that may be one number for all axes, or none."""
    value = default if value is None or value == [] else value
    listed = [value] if isinstance(value, int) else list(value)
    return listed * count if len(listed) == 1 else listed


def grid(length: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Give the positions (L, K) that a convolution's windows read."""
    return (torch.arange(length) * stride - padding)[:, None] + torch.arange(kernel) * dilation


def adaptive_grid(length: int, windows: int) -> tuple[Tensor, Tensor]:
    """Give the positions (L, K) of adaptive pooling's windows, and which of them there are."""
    spans = [(w * length // windows, math.ceil((w + 1) * length / windows)) for w in range(windows)]
    width = max(end - start for start, end in spans)
    taps_LK = torch.tensor([start for start, _ in spans])[:, None] + torch.arange(width)
    return taps_LK, taps_LK < torch.tensor([end for _, end in spans])[:, None]
