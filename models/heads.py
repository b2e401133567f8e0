"""A classification network's head: the layer that turns features into logits, found by watching the network run.

Shape suffixes: N images, C channels, H height, W width, D features, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.errors import InvalidCard, ModelLoadFailed


@torch.inference_mode()
def find_head(network: nn.Module, probe_NCHW: Tensor) -> str:
    """Name the module that makes the logits.

    It is the linear layer that the network's output comes from, else the last linear or convolutional layer to run.
    For a convolution (SqueezeNet's) it is the outermost module around it whose output is the network's.

    Args:
        network: In eval mode.
        probe_NCHW: One input, float32 of shape (1, C, H, W) or whatever the network takes.

    Returns:
        The module's dotted name.

    Raises:
        ModelLoadFailed: No linear or convolutional layer runs.
    """
    outputs, final = _watch(network, probe_NCHW)
    weighted = [name for name in outputs if isinstance(network.get_submodule(name), (nn.Linear, nn.Conv2d))]
    if not weighted:
        raise ModelLoadFailed(
            f"Expected {type(network).__name__} to end in a linear or convolutional layer that makes the logits, "
            "found none that runs. Name the module whose output the features are in the card: [embedding] layer."
        )
    same = [name for name in weighted if _same(outputs[name], final)]
    head = (same or weighted)[-1]
    if isinstance(network.get_submodule(head), nn.Linear):
        return head
    around = [name for name in outputs if f"{head}.".startswith(f"{name}.") and _same(outputs[name], final)]
    return min(around, key=len, default=head)


def num_features(network: nn.Module, layer: str) -> int:
    """Give D, the length of what enters a head that ``find_head`` named."""
    module = network.get_submodule(layer)
    return module.in_features if isinstance(module, nn.Linear) else _convolution(module, layer).in_channels


def replace_head(network: nn.Module, layer: str, num_classes: int) -> None:
    """Put a fresh linear layer in the place of the head.

    A convolutional head becomes average pooling and a convolution of one pixel, a linear layer in another shape.

    Args:
        network: Changed in place.
        layer: As ``find_head`` named it.
        num_classes: K, the number of outputs.

    Raises:
        InvalidCard: The network has no such module, or it has nothing to replace.
    """
    try:
        length = num_features(network, layer)
    except AttributeError as error:
        raise InvalidCard(f"head.layer: {type(network).__name__} has no module {layer!r}.", layer=layer) from error
    head: nn.Module = nn.Linear(length, num_classes)
    if not isinstance(network.get_submodule(layer), nn.Linear):
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(length, num_classes, kernel_size=1))
    parent, _, name = layer.rpartition(".")
    setattr(network.get_submodule(parent), name, head)


@torch.no_grad()
def fill_head(network: nn.Module, layer: str, weight_KD: Tensor, bias_K: Tensor) -> None:
    """Set the weights of a head that ``replace_head`` made.

    Args:
        network: Changed in place.
        layer: Its name.
        weight_KD: float32 of shape (K, D).
        bias_K: float32 of shape (K,).
    """
    module = network.get_submodule(layer)
    linear = module if isinstance(module, nn.Linear) else _convolution(module, layer)
    linear.weight.copy_(weight_KD.view_as(linear.weight))
    assert linear.bias is not None
    linear.bias.copy_(bias_K)


def _watch(network: nn.Module, probe_NCHW: Tensor) -> tuple[dict[str, Any], Any]:
    """Run once; gives what each module put out, in the order in which they ended, and the network's output."""
    outputs: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            # A module that runs twice counts where it ran last.
            outputs.pop(name, None)
            outputs[name] = output

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in network.named_modules() if name]
    try:
        final = network(probe_NCHW)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, final


def _same(output: Any, final: Any) -> bool:
    if not isinstance(output, Tensor) or not isinstance(final, Tensor):
        return False
    return output.numel() == final.numel() and torch.equal(output.flatten(), final.flatten())


def _convolution(module: nn.Module, layer: str) -> nn.Conv2d:
    found = next((inner for inner in module.modules() if isinstance(inner, nn.Conv2d)), None)
    if found is None:
        raise InvalidCard(f"head.layer: {layer!r} is neither a linear layer nor holds a convolution.", layer=layer)
    return found
