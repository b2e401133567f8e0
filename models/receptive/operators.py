"""Which rule each aten operator follows; what is not here depends on everything."""

from __future__ import annotations

from typing import Any

import torch

from models.receptive.rules import (
    EMPTY,
    UNCUT,
    Call,
    Field,
    Rule,
    adaptive_grid,
    along_axis,
    globally,
    grid,
    moved,
    numbers,
    over_axes,
    pointwise,
    reduced,
    reshaped,
    squashed,
    through_windows,
    union,
)


def rule_of(func: Any) -> Rule:
    """Choose the rule of an operator; its in-place form follows the same one."""
    name = func._schema.name.partition("::")[2].rstrip("_")
    if name in _RULES:
        return _RULES[name]
    return pointwise if torch.Tag.pointwise in func.tags or name in _POINTWISE.split() else globally


def stays_whole(func: Any) -> bool:
    """Say whether an operator has a rule that its parts have not."""
    return rule_of(func) is _upsampling


def _convolution(call: Call) -> Field:
    arguments, spatial = call.arguments, call.out.ndim - 2
    field = call.field(arguments["input"])
    if field is None:
        return globally(call)
    weight, groups, transposed = arguments["weight"], arguments["groups"], arguments["transposed"]
    settings = [numbers(arguments[name], spatial) for name in ("stride", "padding", "dilation")]
    field = _over_groups(field, groups)
    for number, (stride, padding, dilation) in enumerate(zip(*settings, strict=True)):
        axis, kernel = 2 + number, weight.shape[2 + number]
        length = arguments["input"].shape[axis]
        if transposed:
            reach = torch.arange(call.out.shape[axis])[:, None] + padding - torch.arange(kernel) * dilation
            taps, exists = torch.div(reach, stride, rounding_mode="floor"), reach % stride == 0
        else:
            taps, exists = grid(call.out.shape[axis], kernel, stride, padding, dilation), None
        field = through_windows(field, axis, taps, exists, length=length)
    return _spread(field, call, groups)


def _over_groups(field: Field, groups: int) -> Field:
    small = [squashed(one) for one in field]
    return [one if one.shape[1] == 1 else torch.unflatten(one, 1, (groups, -1)).amin(2) for one in small]


def _spread(field: Field, call: Call, groups: int) -> Field:
    channels = call.out.shape[1]
    wide = [one if one.shape[1] == 1 else one.repeat_interleave(channels // groups, 1) for one in field]
    return [one.expand(call.out.shape) for one in wide]


def _pooling(call: Call) -> Any:
    arguments = call.arguments
    out = call.out if isinstance(call.out, torch.Tensor) else call.out[0]
    (field,) = call.fields
    given = field[0].shape
    spatial = len(numbers(arguments["kernel_size"], 2))
    first = out.ndim - spatial
    kernel = numbers(arguments["kernel_size"], spatial)
    stride = numbers(arguments.get("stride"), spatial, kernel)
    padding = numbers(arguments.get("padding"), spatial, 0)
    dilation = numbers(arguments.get("dilation"), spatial, 1)
    for number in range(spatial):
        axis = first + number
        taps = grid(out.shape[axis], kernel[number], stride[number], padding[number], dilation[number])
        field = through_windows(field, axis, taps, length=given[axis])
    return _like(field, call)


def _adaptive_pooling(call: Call) -> Any:
    (field,) = call.fields
    given = field[0].shape
    sizes = call.arguments["output_size"]
    out = call.out if isinstance(call.out, torch.Tensor) else call.out[0]
    first = out.ndim - len(sizes)
    for axis in range(first, out.ndim):
        if out.shape[axis] == 1:
            field = over_axes(_lengthened(field, axis, given[axis]), [axis], call.size_hw)
            continue
        taps, exists = adaptive_grid(given[axis], out.shape[axis])
        field = through_windows(field, axis, taps, exists, length=given[axis])
    return _like(field, call)


def _like(field: Field, call: Call) -> Any:
    if isinstance(call.out, torch.Tensor):
        return union([field], call.out.shape)
    return [union([field], out.shape) for out in call.out]


def _upsampling(call: Call) -> Field:
    (field,) = call.fields
    given = field[0].shape
    for axis in range(2, len(given)):
        taps, exists = _taps(call, axis, given[axis])
        field = through_windows(field, axis, taps, exists, length=given[axis])
    return union([field], call.out.shape)


def _taps(call: Call, axis: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ask the operator itself which positions it reads, by resizing the rows of a unit matrix."""
    ndim, windows = call.out.ndim, call.out.shape[axis]
    shape, sizes = [1, length, *[1] * (ndim - 2)], [1] * (ndim - 2)
    shape[axis], sizes[axis - 2] = length, windows
    factors = call.arguments.get("scale_factors")
    given: dict[str, Any] = {"output_size": sizes}
    if factors:
        ones = [1.0] * (ndim - 2)
        ones[axis - 2] = factors[axis - 2]
        given = {"output_size": None, "scale_factors": ones}
    name = next(iter(call.arguments))
    arguments = {**call.arguments, name: torch.eye(length).reshape(shape), **given}
    read_LK = call.func(**arguments).reshape(length, windows).T.abs() > 0
    width = int(read_LK.sum(1).max())
    taps_LK = read_LK.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    return taps_LK, read_LK.gather(1, taps_LK)


def _lengthened(field: Field, axis: int, length: int) -> Field:
    return [one.expand(*one.shape[:axis], length, *one.shape[axis + 1 :]) for one in field]


def _padding(call: Call) -> Field:
    pad, (field,) = call.arguments["pad"], call.fields
    for number in range(len(pad) // 2):
        axis = call.out.ndim - 1 - number
        taps = (torch.arange(call.out.shape[axis]) - pad[2 * number])[:, None]
        field = through_windows(field, axis, taps, length=call.arguments["self"].shape[axis])
    return union([field], call.out.shape)


def _mirroring(call: Call) -> Any:
    (field,) = call.fields
    arguments = {name: value for name, value in call.arguments.items() if name != "self"}
    # These operators move floating point numbers alone; double holds every coordinate.
    return [call.func(one.double(), **arguments).to(one.dtype) for one in field]


def _product(call: Call) -> Field:
    first, second = (call.arguments[name] for name in _factors(call))
    fields = [over_axes(field, [field[0].ndim - 1], call.size_hw) if (field := call.field(first)) else None]
    fields.append(over_axes(field, [field[0].ndim - 2], call.size_hw) if (field := call.field(second)) else None)
    added = call.field(call.arguments.get("self")) if "mat1" in call.arguments or "batch1" in call.arguments else None
    return union([field for field in (*fields, added) if field is not None], call.out.shape)


def _factors(call: Call) -> tuple[str, str]:
    pairs = (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"))
    return next(pair for pair in pairs if all(name in call.arguments for name in pair))


def _attention(call: Call) -> Any:
    """Each token of the query depends on itself and on all keys and values of its own batch."""
    fields = []
    for name, axes in (("query", [-1]), ("key", [-1, -2]), ("value", [-1, -2])):
        field = call.field(call.arguments[name])
        if field is not None:
            fields.append(over_axes(field, [axis % field[0].ndim for axis in axes], call.size_hw))
    if isinstance(call.out, torch.Tensor):
        return union(fields, call.out.shape)
    return [union(fields, call.out[0].shape), *[globally(call)] * (len(call.out) - 1)]


def _batch_norm(call: Call) -> Any:
    (field,) = call.fields[:1]
    if call.arguments.get("training"):
        axes = [axis for axis in range(field[0].ndim) if axis != 1]
        field = over_axes(field, axes, call.size_hw)
    return _first(field, call)


def _layer_norm(call: Call) -> Any:
    (field,) = call.fields[:1]
    ndim, normalised = field[0].ndim, len(call.arguments["normalized_shape"])
    return _first(over_axes(field, range(ndim - normalised, ndim), call.size_hw), call)


def _group_norm(call: Call) -> Any:
    (field,) = call.fields[:1]
    return _first(over_axes(field, range(1, field[0].ndim), call.size_hw), call)


def _first(field: Field, call: Call) -> Any:
    if isinstance(call.out, torch.Tensor):
        return union([field], call.out.shape)
    return [union([field], call.out[0].shape), *[globally(call)] * (len(call.out) - 1)]


def _copy(call: Call) -> Field:
    """What was there before is gone."""
    field = call.field(call.arguments["src"])
    return _nothing(call) if field is None else union([field], call.out.shape)


def _nothing(call: Call) -> Any:
    """What is made of a shape alone depends on no pixel."""
    none = [torch.full((), EMPTY, dtype=torch.int32)] * (2 * UNCUT)
    return none if isinstance(call.out, torch.Tensor) else [none for _ in call.out]


_GROUPS: dict[Rule, str] = {
    moved: "permute transpose t slice select unsqueeze squeeze expand cat stack split split_with_sizes chunk unbind "
    "unfold roll flip rot90 repeat pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle index_select "
    "gather index diagonal narrow tile movedim tril triu",
    reshaped: "view _unsafe_view reshape _reshape_alias",
    reduced: "sum mean amax amin max min argmax argmin var std prod any all logsumexp norm linalg_vector_norm "
    "var_mean std_mean median nanmean count_nonzero",
    along_axis: "softmax _softmax log_softmax _log_softmax cumsum cumprod sort topk _safe_softmax",
    _convolution: "convolution _convolution convolution_overrideable",
    _pooling: "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d max_pool2d "
    "max_pool1d max_pool3d mkldnn_max_pool2d mkldnn_max_pool3d quantized_max_pool2d max_pool2d_with_indices_backward",
    _adaptive_pooling: "adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d "
    "adaptive_max_pool2d adaptive_max_pool1d adaptive_max_pool3d",
    _upsampling: "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d "
    "upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
    _padding: "constant_pad_nd",
    _mirroring: "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d",
    _product: "mm bmm addmm baddbmm _addmm_activation",
    _attention: "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention "
    "_scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math",
    _batch_norm: "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm batch_norm _batch_norm_no_update",
    _layer_norm: "native_layer_norm layer_norm _fused_rms_norm rms_norm",
    _group_norm: "native_group_norm",
    _copy: "copy",
    _nothing: "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty "
    "new_empty_strided fill zero resize",
}  # fmt: skip
_RULES: dict[str, Rule] = {name: rule for rule, names in _GROUPS.items() for name in names.split()}
_POINTWISE = (
    "_to_copy clone detach alias contiguous lift_fresh lift dropout native_dropout feature_dropout hardswish "
    "hardsigmoid prelu _prelu_kernel masked_fill where clamp_min clamp_max bernoulli to _to_dense fake_quantize "
    "_fused_dropout rrelu_with_noise softshrink hardshrink"
)
"""What torch does not tag as pointwise, though it is."""
