"""What an attribution method gives, with the numbers to trust it by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Completeness:
    """Whether attributions add up to f(x) - f(baseline).

    Attributes:
        attribution_sum: Sum of the attributions.
        output_difference: f(x) - f(baseline).
    """

    attribution_sum: float
    output_difference: float

    @property
    def error(self) -> float:
        """|sum - difference| / |difference|."""
        gap = abs(self.attribution_sum - self.output_difference)
        return gap / max(abs(self.output_difference), 1e-12)


@dataclass(frozen=True)
class Explained:
    """One attribution.

    Attributes:
        attribution_HW: float32 in the input's geometry; above 0 speaks for the class, below 0 against it.
        evaluations: Images that went through the network for it.
        completeness: Of methods that promise it.
        surrogate_r2: How well LIME's surrogate fits its weighted samples.
        standard_error: Mean standard error of the attribution, as a share of its largest absolute value.
        segments_HW: Superpixels from 0.
        weights: float64 (M,), one per superpixel.
        weight_errors: Their standard errors, float64 (M,).
        layer: What Grad-CAM read.
        note: What a person should know before trusting it.
    """

    attribution_HW: NDArray[np.float32]
    evaluations: int
    completeness: Completeness | None = None
    surrogate_r2: float | None = None
    standard_error: float | None = None
    segments_HW: NDArray[np.integer[Any]] | None = None
    weights: NDArray[np.float64] | None = None
    weight_errors: NDArray[np.float64] | None = None
    layer: str | None = None
    note: str | None = None


def to_map(values_HW: Tensor) -> NDArray[np.float32]:
    """Bring a map to the CPU, as float32."""
    array: NDArray[np.float32] = values_HW.detach().float().cpu().numpy()
    return array


def relative_error(errors: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> float | None:
    """Give the mean standard error as a share of the largest absolute value; ``None`` where one is unknown."""
    largest = float(np.abs(values).max(initial=0))
    share = float(np.mean(errors)) / max(largest, 1e-12)
    return share if np.isfinite(share) else None
