"""The model a worker hosts: one fast copy for answers, one fp32 copy for gradients and parity."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from models.catalog import Entry
from models.classifier import Classifier
from models.compiling import MAX_BATCH
from models.devices import pick_device
from models.folding import fold_batch_norms
from models.loading import hooks, load
from visionpipe.schemas.jobs import ModelInfo
from workers.cuda import Cuda
from workers.cuda_copies import Copies
from workers.device import Device, pick_precision

MAX_SHAPES_SEEN = 256
"""Of so many input shapes it is noted how long they computed."""


class Answering(nn.Module):
    """A network, or the part of one, that answers: compiled for inputs of some shapes, eager for others.

    Args:
        eager: The network as torch runs it.
        part: What it is called among the parts of the model.
        dtype: Of the inputs that compiled code takes.

    Attributes:
        spent_s: How long the eager network has computed inputs of each shape (C, H, W).
    """

    def __init__(self, eager: nn.Module, *, part: str = "network", dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.eager = eager
        self.part = part
        self.dtype = dtype
        self.spent_s: dict[tuple[int, ...], float] = {}
        self._compiled: dict[tuple[int, ...], Callable[[Tensor], Any]] = {}

    @property
    def shapes(self) -> set[tuple[int, ...]]:
        """The shapes (C, H, W) that compiled code answers."""
        return set(self._compiled)

    def use(self, compiled: Callable[[Tensor], Any], shape_CHW: tuple[int, ...]) -> None:
        """Answer with compiled code from now on; called by the device thread."""
        self._compiled[shape_CHW] = compiled
        self.spent_s.pop(shape_CHW, None)

    def forward(self, inputs: Tensor) -> Any:
        """Give the network's output for a batch."""
        shape_CHW = tuple(inputs.shape[1:])
        compiled = self._compiled.get(shape_CHW)
        if compiled is not None and len(inputs) <= MAX_BATCH and inputs.dtype == self.dtype:
            return compiled(inputs.contiguous(memory_format=torch.channels_last))
        started = time.perf_counter()
        answer = self.eager(inputs)
        if shape_CHW in self.spent_s or len(self.spent_s) < MAX_SHAPES_SEEN:
            self.spent_s[shape_CHW] = self.spent_s.get(shape_CHW, 0.0) + time.perf_counter() - started
        return answer


class HostedModel:
    """A card with its weights on a device.

    Attributes:
        entry: Where the card was found.
        master: The network in fp32, eval mode, on the device; for hooks and gradients.
        device: Where it computes, and in which precision it answers.
        cuda: The device, if it is a GPU.
        copies: The way of micro-batches to the device and back.
        fast: The network in the answering precision, batch norms folded.
        answering: The same, with whatever of it has been compiled since.
        folded: Modules inside ``fast`` whose outputs are not those of the same modules in ``master``.
    """

    def __init__(self, entry: Entry, *, device: str = "auto") -> None:
        self.entry = entry
        self.card = entry.card
        self.hooks = hooks(entry)
        torch_device = pick_device(device)
        self.master: nn.Module = load(entry).to(torch_device)
        self.device = Device(torch_device, "fp32")
        self.cuda = Cuda(torch_device) if torch_device.type == "cuda" else None
        self.copies = Copies(self.cuda)
        self.fast: nn.Module = self.master
        self.answering = Answering(self.fast)
        self.folded: frozenset[str] = frozenset()

    def set_precision(self, precision: str) -> None:
        """Make the fast copy: channels_last, and in the precision given."""
        self.device = Device(self.device.torch_device, precision)
        self.fast, self.folded = self._answering(precision)
        self.answering = Answering(self.fast, dtype=self.device.dtype)
        for derived in ("info", "unfolded"):
            self.__dict__.pop(derived, None)

    def in_precision(self, precision: str) -> nn.Module:
        """Copy the network into another precision, as it would answer."""
        return self._answering(precision)[0]

    @cached_property
    def unfolded(self) -> nn.Module:
        """The network in the answering precision as it was trained, for those who read ``folded`` modules."""
        network: nn.Module = copy.deepcopy(self.master).to(dtype=self.device.dtype)
        return network.to(memory_format=torch.channels_last)

    def _answering(self, precision: str) -> tuple[nn.Module, frozenset[str]]:
        network: nn.Module = copy.deepcopy(self.master)
        folded = fold_batch_norms(network)
        network = network.to(dtype=Device(self.device.torch_device, precision).dtype)
        return network.to(memory_format=torch.channels_last), folded

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        """Channels, height and width of an input, where the card fixes them."""
        size_hw = self.card.preprocess.input_size_hw
        if size_hw is None or self.hooks.preprocess is not None:
            return None
        return (len(self.card.preprocess.mode), *size_hw)

    def classifier(self, network: Callable[[Tensor], Tensor] | None = None) -> Classifier:
        """Wrap a copy of the network, or the fast one, so that it gives logits (N, K)."""
        return Classifier(
            self.answering if network is None else network,
            postprocess=self.hooks.postprocess,
            num_classes=len(self.card.labels) or None,
            name=self.card.name,
        )

    def to_input(self, batch: Tensor) -> Tensor:
        """Move a float32 batch (N, C, H, W) to the device, in the answering precision."""
        moved = self.copies.move(batch).to(self.device.torch_device, self.device.dtype)
        return moved.contiguous(memory_format=torch.channels_last) if moved.ndim == 4 else moved

    @cached_property
    def info(self) -> ModelInfo:
        """What envelopes say about this model."""
        return ModelInfo(
            name=self.card.name,
            digest=self.entry.digest,
            precision=self.device.precision,
            device=str(self.device.torch_device),
        )

    def choose_precision(self, wanted: str, is_faithful: Callable[[str], bool]) -> None:
        """Settle on a precision; see ``workers.device.pick_precision``."""
        self.set_precision(pick_precision(wanted, self.device.torch_device, is_faithful))
