"""A copy of a network whose layers become random one after the other, from the last to the first.

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity checks for saliency maps, 2018.

Shape suffixes: 1 one image, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import UnsupportedOption


class Cascade:
    """Randomizes a deep copy of a classifier; the original stays as it is.

    A layer is a module with parameters of its own. It becomes as it was before training by its ``reset_parameters``,
    which also takes the statistics out of a batch normalisation; a module without that method gets normal numbers of
    the mean and standard deviation of each trained tensor. Parameters that take no part in the logits are left alone.

    Args:
        classifier: Inputs (N, C, H, W) → logits (N, K); in eval mode.
        probe_1CHW: One input.
        seed: Of the random weights. Those of a layer depend on the seed and the layer alone.

    Attributes:
        classifier: The copy.
        layers: Names of the layers as their owner has them, from the last that runs to the first.
        depth: How many of them are random.

    Raises:
        UnsupportedOption: The network has no parameters, hence nothing that could be randomized.
    """

    def __init__(self, classifier: nn.Module, probe_1CHW: Tensor, *, seed: int = 0) -> None:
        self.classifier = copy.deepcopy(classifier)
        self._seed = seed
        self._groups = dict(reversed(_groups(self.classifier, probe_1CHW).items()))
        if not self._groups:
            raise UnsupportedOption(
                "Expected a network with trained layers for sanity_check, this one has no parameters. Leave it out."
            )
        self.layers = tuple(name.removeprefix("network.") or "network" for name in self._groups)
        self.depth = 0

    def randomize(self, depth: int) -> None:
        """Make the last ``depth`` layers random; those that are stay as they are."""
        groups = list(self._groups.values())
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for index in range(self.depth, depth):
                torch.default_generator.manual_seed((self._seed << 20) + index)
                for module in groups[index]:
                    _reset(module)
        self.depth = max(depth, self.depth)


def spread_depths(num_layers: int, max_depths: int) -> list[int]:
    """Choose at how many random layers to look: evenly spread, the last layer alone and all layers among them.

    With ``max_depths`` of 1 it is all layers.
    """
    if max_depths == 1:
        return [num_layers]
    spread = np.linspace(1, num_layers, min(max_depths, num_layers))
    return [int(depth) for depth in np.unique(spread.round().astype(int))]


def _groups(classifier: nn.Module, probe_1CHW: Tensor) -> dict[str, list[nn.Module]]:
    """Give the modules to randomize together, in the order in which the first of them runs.

    A module whose parameters another one uses without running it (attention does so with its output projection)
    goes with the module around it.
    """
    ran, used = _run(classifier, probe_1CHW)
    order = {name: place for place, name in enumerate(ran)}
    groups: dict[str, list[nn.Module]] = {}
    for name, module in classifier.named_modules():
        if any(id(parameter) in used for parameter in module.parameters(recurse=False)):
            at = name
            while at not in order:
                at = at.rpartition(".")[0]
            groups.setdefault(at, []).append(module)
    return {name: groups[name] for name in sorted(groups, key=order.__getitem__)}


def _run(classifier: nn.Module, probe_1CHW: Tensor) -> tuple[list[str], set[int]]:
    """Run once; gives the modules in the order in which they began, and the identities of the parameters that count."""
    ran: dict[str, None] = {}

    def noting(name: str) -> Callable[..., None]:
        return lambda *_: ran.setdefault(name)

    parameters = list(classifier.parameters())
    wanted = [parameter.requires_grad for parameter in parameters]
    handles = [module.register_forward_pre_hook(noting(name)) for name, module in classifier.named_modules()]
    try:
        for parameter in parameters:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.enable_grad():
            logits_1K: Tensor = classifier(probe_1CHW)
        used = _used(logits_1K)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)
    if not logits_1K.requires_grad:
        # Something breaks the chain of gradients; what runs is then taken to count.
        modules = [classifier.get_submodule(name) for name in ran]
        used = {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}
    return list(ran), used


def _used(logits_1K: Tensor) -> set[int]:
    """Give the identities of the parameters that the logits depend on, from the graph that made them."""
    found: set[int] = set()
    seen: set[Any] = set()
    open_nodes = [logits_1K.grad_fn]
    while open_nodes:
        node: Any = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(id(getattr(node, "variable", None)))
        open_nodes += [before for before, _ in node.next_functions]
    return found


def _reset(module: nn.Module) -> None:
    # Drawn on the CPU, so that every device gets the same weights.
    devices = {name: parameter.device for name, parameter in module.named_parameters(recurse=False)}
    device = next(iter(devices.values()))
    reset: Any = getattr(module, "reset_parameters", None)
    if callable(reset):
        module.cpu()
        reset()
        module.to(device)
        return
    for parameter in module.parameters(recurse=False):
        values = parameter.detach().float().cpu()
        spread = float(values.std()) if values.numel() > 1 else 1.0
        parameter.copy_(torch.randn(values.shape) * spread + values.mean())
