"""What is asked of an attribution method, and with how much work.

Shape suffixes: 1 one image, B baselines, C channels, H height, W width, N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Method = Literal[
    "saliency",
    "input_x_gradient",
    "smoothgrad",
    "integrated_gradients",
    "guided_backprop",
    "deconvolution",
    "grad_cam",
    "occlusion",
    "lime",
    "kernel_shap",
    "gradient_shap",
]
"""By their papers' names."""

Algorithm = Literal["slic", "quickshift", "felzenszwalb", "grid"]
"""How superpixels are cut."""


@dataclass(frozen=True)
class Question:
    """One class of one image.

    Attributes:
        classifier: Inputs (N, C, H, W) → logits (N, K); differentiable, fp32, in eval mode, on the input's device.
        x_1CHW: The network's input, normalised.
        target: The class; what is explained is its logit.
        baseline_1CHW: What stands for "nothing there", in the same units as the input.
        low_C: What a level of 0 is, per channel, in the input's units.
        high_C: What a level of 1 is.
        baselines_BCHW: More of them, from which GradientSHAP draws; unset means the one.
        segments_HW: Superpixels, numbered from 0; unset means that LIME and KernelSHAP cut them.
        forward: Like the classifier, but quicker and not differentiable; for methods that only perturb.
        targets: Every class that will be asked of this image with the same settings; what perturbing gives is then
            kept in ``memo`` for the others.
        memo: Shared by the questions about one image.
        is_awaited: Whether others want the device now and then; steps are short while they do.
    """

    classifier: nn.Module
    x_1CHW: Tensor
    target: int
    baseline_1CHW: Tensor
    low_C: Tensor
    high_C: Tensor
    baselines_BCHW: Tensor | None = None
    segments_HW: NDArray[np.integer[Any]] | None = None
    forward: Callable[[Tensor], Tensor] | None = None
    targets: tuple[int, ...] = ()
    memo: dict[str, Any] = field(default_factory=dict)
    is_awaited: Callable[[], bool] = lambda: False

    @property
    def input_span(self) -> Tensor:
        """How far the input reaches from a level of 0 to 1, per channel."""
        return (self.high_C - self.low_C).to(self.x_1CHW.device).view(-1, 1, 1)

    def outputs(self, x_NCHW: Tensor) -> Tensor:
        """Give the logits (N, K) by the quicker way, float32."""
        with torch.no_grad():
            return (self.forward or self.classifier)(x_NCHW).float()


@dataclass(frozen=True)
class Settings:
    """Which method, and its numbers; unset ones mean the method's own.

    Attributes:
        method: Which.
        steps: Points on the path of integrated gradients; unset means as many as completeness within 1 % takes.
        samples: Perturbed inputs of the sampling methods.
        noise: Standard deviation as a share of the input's range: of SmoothGrad (unset: 0.15), GradientSHAP (0).
        layer: Module that Grad-CAM reads, by its dotted name inside the classifier's network.
        window_px: Side of occlusion's window.
        stride_px: Its stride.
        algorithm: How superpixels are cut.
        count: About how many superpixels.
        compactness: SLIC's balance of nearness in space against nearness in colour.
        kernel_width: Of LIME's exponential kernel over cosine distance.
        ridge: L2 penalty of LIME's surrogate.
        seed: Of every random choice.
        max_batch: Most images of one device step.
        step_s: What a device step should take while nobody else wants the device.
    """

    method: Method = "integrated_gradients"
    steps: int | None = None
    samples: int | None = None
    noise: float | None = None
    layer: str | None = None
    window_px: int | None = None
    stride_px: int | None = None
    algorithm: Algorithm = "slic"
    count: int = 50
    compactness: float = 10.0
    kernel_width: float = 0.25
    ridge: float = 1.0
    seed: int = 0
    max_batch: int = 64
    step_s: float = 0.1
