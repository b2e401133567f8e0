"""Other rules for the way back through every ReLU of a network, however it is written.

Hooks on modules miss what a network calls as a function, and in-place operations break them; so the calls themselves
are caught. Code that ``torch.jit`` compiled cannot be seen into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from models.errors import UnsupportedOption

Rule = Literal["guided", "deconvolution"]
"""``guided``: gradients pass where both they and the ReLU's input are above 0 (Springenberg et al.: Striving for
simplicity, 2014). ``deconvolution``: they pass where they themselves are (Zeiler & Fergus: Visualizing and
understanding convolutional networks, 2013)."""

_IN_PLACE = {functional.relu_, torch.relu_, Tensor.relu_, functional.hardtanh_}
_RELUS = {functional.relu, torch.relu, Tensor.relu, functional.relu_, torch.relu_, Tensor.relu_}
_RELU6S = {functional.relu6, functional.hardtanh, functional.hardtanh_}


class _Relu(torch.autograd.Function):
    """min(max(x, 0), top) with one of the rules on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float | None, inplace: bool, rule: Rule) -> Tensor:
        ctx.rule = rule
        if rule == "guided" and ctx.needs_input_grad[0]:
            passes = x > 0 if top is None else (x > 0) & (x < top)
            ctx.save_for_backward(passes)
        if inplace:
            ctx.mark_dirty(x)
            return x.clamp_(0, top)
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        gradient: Tensor = gradients[0].clamp(min=0)
        if ctx.rule == "guided":
            gradient = gradient * ctx.saved_tensors[0]
        return gradient, None, None, None


class _Watch(TorchFunctionMode):
    """Hands every ReLU that runs to ``seen``, and gives what that gives."""

    def __init__(self, seen: Callable[[Tensor, float | None, bool], Tensor]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _RELUS or func in _RELU6S:
            call = _call(func, args, named)
            if call is not None:
                return self._seen(*call)
        return func(*args, **named)


class relu_rule(_Watch):  # noqa: N801 - used as a function: with relu_rule("guided"):
    """Changes the way back through every ReLU and ReLU6 that runs inside the block, in this thread.

    Only the forward pass has to run inside: the rule stays with the graph that it makes. Answers stay the same.

    Args:
        rule: Which.

    Example:
        >>> with relu_rule("guided"):
        ...     logits_NK = network(x_NCHW)
        >>> (gradient_NCHW,) = torch.autograd.grad(logits_NK[:, target].sum(), x_NCHW)
    """

    def __init__(self, rule: Rule) -> None:
        def apply(x: Tensor, top: float | None, inplace: bool) -> Tensor:
            answer: Tensor = _Relu.apply(x, top, inplace, rule)
            return answer

        super().__init__(apply)


def has_relu(network: nn.Module, probe_NCHW: Tensor) -> bool:
    """Tell whether a ReLU or ReLU6 takes part in a network's answer.

    Args:
        network: In eval mode.
        probe_NCHW: One input, on which the network is run.
    """
    found = False

    def note(x: Tensor, top: float | None, inplace: bool) -> Tensor:
        nonlocal found
        found = True
        return x.clamp_(0, top) if inplace else x.clamp(0, top)

    with torch.no_grad(), _Watch(note):
        network(probe_NCHW)
    return found


def check_relu(network: nn.Module, probe_NCHW: Tensor, method: str) -> None:
    """Make sure that a rule for ReLUs changes anything in a network.

    Args:
        network: In eval mode.
        probe_NCHW: One input.
        method: What needs the ReLUs, for the message.

    Raises:
        UnsupportedOption: It has none.
    """
    if not has_relu(network, probe_NCHW):
        raise UnsupportedOption(
            f"Expected a network with ReLU for {method}, which changes the gradient there; this one has none. "
            "Use saliency, integrated_gradients, smoothgrad or grad_cam, which work with every activation function.",
            method=method,
        )


def _call(
    func: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]
) -> tuple[Tensor, float | None, bool] | None:
    """Read a call as (input, top, inplace); ``None`` for a hard tanh that is no ReLU6."""
    x = args[0] if args else named["input"]
    if func in _RELUS:
        inplace = func in _IN_PLACE or bool(_argument(args, named, 1, "inplace", False))
        return x, None, inplace
    if func is functional.relu6:
        return x, 6.0, bool(_argument(args, named, 1, "inplace", False))
    if _argument(args, named, 1, "min_val", -1.0) != 0:
        return None
    inplace = func in _IN_PLACE or bool(_argument(args, named, 3, "inplace", False))
    return x, float(_argument(args, named, 2, "max_val", 1.0)), inplace


def _argument(args: Sequence[Any], named: Mapping[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else named.get(name, default)
