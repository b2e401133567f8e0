"""Follows the receptive fields of all tensors while a network runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from models.receptive.operators import rule_of, stays_whole
from models.receptive.rules import EMPTY, UNCUT, Call, Field, globally, of_input

RULE_FAULTS = (RuntimeError, ValueError, IndexError, TypeError, KeyError, StopIteration, NotImplementedError)
"""What a rule raises that meets an operator's unforeseen form; then the operator counts as global."""


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, every tensor that is made of a watched input carries its receptive field.

    Run under ``torch.inference_mode``; otherwise views lose theirs.
    """

    follows = True
    """Whether receptive fields are wanted; without them a run is quicker."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fields: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._sharing: dict[int, list[TensorWeakRef]] = {}
        self._size_hw = (0, 0)

    def watch(self, images: Tensor | Sequence[Tensor]) -> None:
        """Name the network's input: (..., H, W), or one such tensor per image."""
        for image in [images] if isinstance(images, Tensor) else images:
            self._size_hw = (int(image.shape[-2]), int(image.shape[-1]))
            self._fields[image] = of_input(image.shape)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the watched input."""
        return self._size_hw

    def field(self, value: Any) -> Field | None:
        """Give the field of a tensor; ``None`` for what depends on no pixel."""
        found: Field | None = self._fields[value] if isinstance(value, Tensor) and value in self._fields else None
        return found

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would import its compiler to keep it out of here, which takes a second; nothing here is compiled.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.ops.prim.device.default and func._can_decompose() and not stays_whole(func):
            with self:
                whole = func.decompose(*args, **kwargs)
            if whole is not NotImplemented:
                return whole
        concerned = self.follows and any(self.field(value) is not None for value in tree_leaves((args, kwargs)))
        out = func(*args, **kwargs)
        # Numbers that leave the tensors are followed no further.
        if concerned and any(isinstance(made, Tensor) for made in tree_leaves(out)):
            self._note(func, args, kwargs, out)
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self._sharing.setdefault(made.untyped_storage()._cdata, []).append(TensorWeakRef(made))
        self.seen(func, args, kwargs, out)
        return out

    @staticmethod
    def paused() -> AbstractContextManager[Any]:
        """While it is entered, nothing is followed: for arithmetic of one's own."""
        paused: AbstractContextManager[Any] = _disable_current_modes()
        return paused

    def seen(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Called after each operator; for those who count."""

    def is_alive(self, storage: int) -> bool:
        """Say whether any tensor still uses a memory that was written to in this run."""
        return bool(self._sharers(storage))

    def _sharers(self, storage: int) -> list[Tensor]:
        found = [reference() for reference in self._sharing.get(storage, [])]
        return [other for other in found if other is not None and other.untyped_storage()._cdata == storage]

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        names = [argument.name for argument in func._schema.arguments]
        call = Call(func, {**dict(zip(names, args, strict=False)), **kwargs}, out, self.field, self._size_hw)
        try:
            answer = rule_of(func)(call)
            self._store(out, answer)
        except RULE_FAULTS:
            answer = globally(call)
            self._store(out, answer)
        if func._schema.is_mutable and isinstance(out, Tensor):
            self._write_through(out)

    def _store(self, out: Any, answer: Any) -> None:
        for number, made in enumerate([out] if isinstance(out, Tensor) else out):
            if isinstance(made, Tensor) and made.numel():
                field = answer if isinstance(answer[0], Tensor) else answer[number]
                self._fields[made] = [coordinate.expand(made.shape) for coordinate in field]

    def _write_through(self, target: Tensor) -> None:
        """Tell the tensors that share memory with one that was written to."""
        key, field = target.untyped_storage()._cdata, self._fields[target]
        for other in self._sharers(key):
            if other is not target:
                old = self.field(other) or [torch.full((), EMPTY, dtype=torch.int32)] * (2 * UNCUT)
                self._fields[other] = [_overwritten(other, target, *pair) for pair in zip(old, field, strict=True)]


def _overwritten(other: Tensor, target: Tensor, old: Tensor, new: Tensor) -> Tensor:
    places = torch.full((other.untyped_storage().nbytes() // other.element_size(),), EMPTY, dtype=torch.int32)
    view = places.as_strided(other.shape, other.stride(), other.storage_offset())
    view.copy_(old)
    places.as_strided(target.shape, target.stride(), target.storage_offset()).copy_(new)
    return view
