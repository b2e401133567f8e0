"""The rows of a profile: one for each piece of work that a network does."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from models.accounting.operators import Windows


@dataclass
class Layer:
    """One call of a module, or a part of it that functional code does by itself."""

    name: str
    """Dotted name of the module; empty for the network itself."""
    kind: str
    """The module's class, or the operator where a module does several things by itself."""
    call: int = 0
    """Which run of the module this is; more than 0 where a module is used several times."""
    part: int = 0
    """Which part of this run."""
    windows: Windows | None = None
    """How its windows lie, for convolutions and pooling."""
    output_shape: tuple[int, ...] = ()
    """For one picture, with the batch's axis first."""
    receptive_field_hw: tuple[int, int] | None = None
    """Height and width in pixels of the input, not cut at its border; the input's own once an operator has mixed all
    positions; ``None`` where none is known."""
    sees_all: bool = False
    """Whether every position of the output sees the whole input."""
    stride_hw: tuple[float, float] = (0.0, 0.0)
    """Pixels of the input from one position to the next; 0 once an operator has mixed all positions."""
    weights: int = 0
    """Parameters that are not biases; a module used several times has them in its first row."""
    biases: int = 0
    """Parameters called bias."""
    multiply_adds: int = 0
    """For one picture."""
    activations: int = 0
    """Values that it writes into new memory, for one picture; 0 for what works in place."""
    bytes_moved: int = 0
    """Read and written by its operators, weights included, for one picture in float32."""
    weight_bytes: int = 0
    """The part of ``bytes_moved`` that is weights, which a batch reads once."""
    operators: list[str] = field(default_factory=list)
    """What it calls, by aten's names."""
    time_ms: float | None = None
    """Measured for a batch; ``None`` where the time is in the first row of the same run of the module."""

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases

    def facts(self) -> dict[str, Any]:
        """Give everything as JSON values."""
        facts = asdict(self)
        facts["parameters"] = self.parameters
        facts["activation_bytes_fp32"] = 4 * self.activations
        return facts


@dataclass
class Profile:
    """What a whole network costs for one picture."""

    model: str
    """Name and digest."""
    input_shape: tuple[int, int, int]
    """(C, H, W)."""
    layers: list[Layer]
    """In the order in which they run."""
    unused_parameters: int = 0
    """Parameters that took no part, such as auxiliary heads; they count as parameters of the network."""
    peak_activations: int = 0
    """Most values of activations alive at once while it answers, one operator after the other."""
    published: dict[str, float] = field(default_factory=dict)
    """The card's figures: ``num_params``, ``gflops``."""
    notes: list[str] = field(default_factory=list)
    """What a reader should know."""

    @property
    def weights(self) -> int:
        """Parameters that are not biases."""
        return sum(layer.weights for layer in self.layers)

    @property
    def biases(self) -> int:
        """Parameters called bias."""
        return sum(layer.biases for layer in self.layers)

    @property
    def parameters(self) -> int:
        """All parameters, used or not."""
        return self.weights + self.biases + self.unused_parameters

    @property
    def multiply_adds(self) -> int:
        """For one picture."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activations(self) -> int:
        """Values written into new memory for one picture, the input included."""
        return sum(layer.activations for layer in self.layers) + math.prod(self.input_shape)
