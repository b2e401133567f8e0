"""Batch normalisation folded into the convolution before it, for networks that only answer.

In eval mode a batch norm is one multiplication and one addition per channel, which a convolution's weights and bias can
take over: the same function, in one pass over memory less (Jacob et al. 2017, section 3.2).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import cast

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger("visionpipe.folding")

Pair = tuple[str, str]
"""Dotted names of a convolution and of the batch norm that alone reads its output."""


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> frozenset[str]:
    """Fold, in place, every batch norm whose input is one convolution's output that nothing else reads.

    Module names stay; a folded batch norm becomes ``nn.Identity``. Networks that cannot be traced stay as they are.

    Args:
        network: In eval mode, with its trained weights.

    Returns:
        Dotted names of the convolutions and batch norms whose own outputs, or inputs, are now others.
    """
    try:
        pairs = list(_pairs(network))
    except Exception as error:  # noqa: BLE001 - tracing runs the network's own code, which may refuse in any way
        logger.debug("%s cannot be traced, its batch norms are not folded: %s", type(network).__name__, error)
        return frozenset()
    for conv_name, norm_name in pairs:
        _fold(network, conv_name, norm_name)
    return frozenset(name for pair in pairs for name in pair)


def _pairs(network: nn.Module) -> Iterator[Pair]:
    graph = fx.Tracer().trace(network)
    modules = dict(network.named_modules(remove_duplicate=False))
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    seen = [id(modules[name]) for name in calls]
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not (isinstance(source, fx.Node) and source.op == "call_module" and len(source.users) == 1):
            continue
        conv, norm = modules[str(source.target)], modules[str(node.target)]
        # A module that is called twice, or under two names, means something else in each place.
        if _fits(conv, norm) and seen.count(id(conv)) == 1 and seen.count(id(norm)) == 1:
            yield str(source.target), str(node.target)


def _fits(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.track_running_stats
        and not norm.training
        # Hooks would see something else, or nothing.
        and not (conv._forward_hooks or norm._forward_hooks)
        # Spectral normalisation, for one, sets the weights anew before each pass.
        and not (conv._forward_pre_hooks or norm._forward_pre_hooks)
    )


def _fold(network: nn.Module, conv_name: str, norm_name: str) -> None:
    conv = cast(nn.Conv2d, network.get_submodule(conv_name))
    norm = cast(nn.BatchNorm2d, network.get_submodule(norm_name))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    conv.weight, conv.bias = (nn.Parameter(one.detach(), requires_grad=False) for one in (weight, bias))
    parent, _, name = norm_name.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Identity())
