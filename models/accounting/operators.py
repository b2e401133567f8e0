"""What one call of an aten operator costs, and how its windows lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "addmm_activation")
"""Names of the products of matrices."""
ATTENTION = "scaled_dot_product"
"""Part of the names of fused attention."""


@dataclass(frozen=True)
class Windows:
    """How the windows of a convolution or a pooling lie, one number per spatial axis."""

    kernel: tuple[int, ...]
    """Size of a window."""
    stride: tuple[int, ...]
    """From window to window."""
    padding: tuple[int, ...]
    """Added before and after."""
    dilation: tuple[int, ...]
    """From tap to tap."""
    groups: int = 1
    """Into how many independent parts the channels are divided."""
    in_channels: int = 0
    """Of a convolution; 0 for pooling."""
    out_channels: int = 0
    """Of a convolution; 0 for pooling."""
    transposed: bool = False
    """Whether the convolution goes the other way and enlarges."""


def name_of(func: Any) -> str:
    """Give the plain name of an operator, without namespace, overload and the mark of working in place."""
    name: str = func._schema.name.partition("::")[2]
    return name.rstrip("_").removeprefix("_") if not name.startswith("__") else name


def is_view(func: Any, made: list[Tensor], inputs: list[Tensor]) -> bool:
    """Say whether nothing was computed: the results lie in the memory of what came in, as it was."""
    own = {tensor.untyped_storage()._cdata for tensor in inputs}
    return not func._schema.is_mutable and all(tensor.untyped_storage()._cdata in own for tensor in made)


def kind_of(names: list[str], lies: Windows | None, has_weights: bool, before: str) -> str:
    """Name a piece of work by its operators.

    Args:
        names: Of all its operators so far.
        lies: Its windows.
        has_weights: Whether the latest one multiplies by parameters of the network.
        before: The name so far.
    """
    latest = names[-1]
    if "convolution" in latest and lies is not None:
        return f"conv{'_transpose' if lies.transposed else ''}{len(lies.kernel)}d"
    if latest in PRODUCTS:
        return "linear" if has_weights else "matmul"
    if ATTENTION in latest:
        return "attention"
    if "_pool" in latest:
        return latest.removesuffix("_with_indices").removeprefix("mkldnn_")
    if before and (lies is not None or any(name in PRODUCTS for name in names)):
        return before
    return " + ".join(dict.fromkeys(names[:3])) + (" + ..." if len(set(names)) > 3 else "")


def multiply_adds(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Count the multiply-adds of products, convolutions and attention, as torchvision's published figures do.

    Everything else (biases, normalisation, activations, pooling, softmax) counts as nothing.
    """
    name = name_of(func)
    if ATTENTION in name:
        query, key, value = args[:3]
        positions = math.prod(query.shape[:-1]) * key.shape[-2]
        return int(positions * (query.shape[-1] + value.shape[-1]))
    if name in ("mv", "addmv", "dot", "vdot"):
        matrix = args[1] if name == "addmv" else args[0]
        return int(matrix.numel())
    formula = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out)) // 2


def windows(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Windows | None:
    """Read how a convolution's or a pooling's windows lie; ``None`` for operators without any."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if "convolution" in name_of(func):
        weight, spatial = given["weight"], given["weight"].ndim - 2
        groups, transposed = given["groups"], bool(given["transposed"])
        return Windows(
            kernel=tuple(weight.shape[2:]),
            stride=_numbers(given["stride"], spatial),
            padding=_numbers(given["padding"], spatial),
            dilation=_numbers(given["dilation"], spatial),
            groups=groups,
            in_channels=weight.shape[0] if transposed else weight.shape[1] * groups,
            out_channels=weight.shape[1] * groups if transposed else weight.shape[0],
            transposed=transposed,
        )
    if "kernel_size" not in given or not is_pooling(func):
        return None
    spatial = 3 if "3d" in name_of(func) else 1 if "1d" in name_of(func) else 2
    kernel = _numbers(given["kernel_size"], spatial)
    return Windows(
        kernel=kernel,
        stride=_numbers(given.get("stride") or kernel, spatial),
        padding=_numbers(given.get("padding", 0), spatial),
        dilation=_numbers(given.get("dilation", 1), spatial),
    )


def is_pooling(func: Any) -> bool:
    """Say whether an operator pools."""
    name = name_of(func)
    return "_pool" in name and "backward" not in name


def _numbers(value: Any, count: int) -> tuple[int, ...]:
    listed = (value,) if isinstance(value, int) else tuple(int(one) for one in value)
    return listed * count if len(listed) == 1 else listed


def tensors_in(value: Any) -> list[Tensor]:
    """List the tensors of a tree."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
