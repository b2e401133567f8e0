"""Books every operator of a run to the module it runs in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.accounting import operators
from models.accounting.layers import Layer
from models.receptive.rules import Field
from models.receptive.tracker import Tracker
from models.receptive_field import main_tensor, measured

Seen = tuple[torch.Size, Field | None]
"""Shape and receptive fields of an output."""


@dataclass
class Frame:
    """A module that is running."""

    name: str
    call: int
    layer: Layer | None = None
    """The row that its next operator belongs to."""
    last: Seen | None = None
    """What that row has put out so far."""
    product: bool = False
    """Whether its latest operator multiplied matrices."""
    parts: int = 0
    """How many rows it has."""


class Ledger(Tracker):  # type: ignore[no-untyped-call]
    """While it is entered, writes one row for each piece of work that a network does.

    Args:
        network: Whose modules and parameters are booked.
        follow: Whether to compute receptive fields, too.
    """

    def __init__(self, network: nn.Module, *, follow: bool = True) -> None:
        super().__init__()
        self.follows = follow
        self.layers: list[Layer] = []
        self.peak = 0
        self._names = {module: name for name, module in network.named_modules()}
        self._parameters = {
            parameter.untyped_storage()._cdata: (name, parameter) for name, parameter in network.named_parameters()
        }
        self._unused = dict(self._parameters)
        self._calls: dict[nn.Module, int] = {}
        self._frames: list[Frame] = []
        self._alive: dict[int, int] = {}
        self._hooks = ExitStack()

    @property
    def unused_parameters(self) -> int:
        """Number of parameters that no operator has read so far."""
        return sum(parameter.numel() for _, parameter in self._unused.values())

    def __enter__(self) -> Any:
        # Decomposed operators enter the mode again, inside itself.
        if not self._frames:
            for module in self._names:
                self._hooks.callback(module.register_forward_pre_hook(self._begin).remove)
                self._hooks.callback(module.register_forward_hook(self._finish).remove)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        if not self._frames or error[0] is not None:
            self._hooks.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _begin(self, module: nn.Module, _: Any) -> None:
        if self._frames:
            self._close(self._frames[-1])
        call = self._calls[module] = self._calls.get(module, -1) + 1
        self._frames.append(Frame(self._names[module], call))

    def _finish(self, module: nn.Module, _: Any, output: Any) -> None:
        frame, value = self._frames.pop(), main_tensor(output)
        if frame.layer is None:
            return
        if value is not None:
            frame.last = (value.shape, self.field(value))
        if frame.parts == 1 and not any(True for _ in module.children()):
            frame.layer.kind = type(module).__name__
        self._close(frame)

    def _close(self, frame: Frame) -> None:
        layer, frame.layer = frame.layer, None
        if layer is None or frame.last is None:
            return
        shape, field = frame.last
        layer.output_shape = tuple(shape)
        # Windows and regions that lie along the batch's axis have no grid of positions.
        if field is not None and shape[:1] == (1,):
            with self.paused():
                seen = measured(layer.name, shape, field, self.size_hw)
                layer.sees_all = seen.sees_all
            layer.receptive_field_hw, layer.stride_hw = seen.size_hw, seen.stride_hw

    def seen(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> None:
        """Book one operator."""
        inputs, made = operators.tensors_in((args, kwargs)), operators.tensors_in(out)
        if not self._frames or not made:
            return
        frame, view = self._frames[-1], operators.is_view(func, made, inputs)
        if frame.layer is None and view:
            return
        cost, lies = operators.multiply_adds(func, args, kwargs, out), operators.windows(func, args, kwargs)
        layer = frame.layer
        if layer is None or ((cost or lies) and (layer.multiply_adds or layer.windows)):
            layer = self._open(frame)
        layer.multiply_adds += cost
        layer.windows = layer.windows or lies
        if self._is_output(frame, layer, func, made[0], view=view, major=bool(cost or lies)):
            frame.last = (made[0].shape, self.field(made[0]))
        if not view:
            self._weigh(layer, inputs, made[0], in_place=func._schema.is_mutable)
            layer.operators.append(operators.name_of(func))
            reads_parameters = any(self._parameter(tensor) for tensor in inputs)
            layer.kind = operators.kind_of(layer.operators, layer.windows, cost > 0 and reads_parameters, layer.kind)

    def _is_output(self, frame: Frame, layer: Layer, func: Any, made: Tensor, *, view: bool, major: bool) -> bool:
        """Say whether a tensor is what a row puts out; what functional code makes of it later is another thing."""
        if major or frame.last is None or not (layer.multiply_adds or layer.windows):
            frame.product = operators.name_of(func) in operators.PRODUCTS
            return True
        # Linear layers multiply a flat matrix, and then give it back its shape.
        shaped = view and frame.product and operators.name_of(func) in ("view", "unsafe_view")
        frame.product = False
        return shaped or made.shape == frame.last[0]

    def _open(self, frame: Frame) -> Layer:
        self._close(frame)
        frame.last = None
        frame.layer = Layer(frame.name, "", call=frame.call, part=frame.parts)
        frame.parts += 1
        self.layers.append(frame.layer)
        return frame.layer

    def _parameter(self, tensor: Tensor) -> tuple[str, nn.Parameter] | None:
        return self._parameters.get(tensor.untyped_storage()._cdata)

    def _weigh(self, layer: Layer, inputs: list[Tensor], made: Tensor, *, in_place: bool) -> None:
        # What else an operator gives (indices, means) is let go at once.
        for tensor in (*inputs, made):
            layer.bytes_moved += tensor.numel() * tensor.element_size()
        for tensor in inputs:
            if self._parameter(tensor) is not None:
                layer.weight_bytes += tensor.numel() * tensor.element_size()
                self._book(layer, tensor.untyped_storage()._cdata)
        if not in_place:
            layer.activations += made.numel()
            self._keep(made)

    def _book(self, layer: Layer, storage: int) -> None:
        name, parameter = self._unused.pop(storage, ("", None))
        if parameter is None:
            return
        if name.endswith("bias"):
            layer.biases += parameter.numel()
        else:
            layer.weights += parameter.numel()

    def _keep(self, made: Tensor) -> None:
        self._alive[made.untyped_storage()._cdata] = made.numel()
        self._alive = {key: values for key, values in self._alive.items() if self.is_alive(key)}
        self.peak = max(self.peak, sum(self._alive.values()))
