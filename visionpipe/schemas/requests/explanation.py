"""Ask why the network said so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from visionpipe.schemas.base import ClassRef, Schema
from visionpipe.schemas.images import ImageRef
from visionpipe.schemas.requests.base import Request, SteppedOptions

ExplanationMethod = Literal[
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
"""The attribution methods, by their papers' names."""

BaselineKind = Literal["mean", "black", "gray", "white", "blur", "noise", "image"]
"""What stands for "nothing there"."""


class Superpixels(Schema):
    """How LIME and KernelSHAP cut the image into the pieces they switch on and off."""

    algorithm: Literal["slic", "quickshift", "felzenszwalb", "grid"] = "slic"
    """Which algorithm of scikit-image, or a plain grid."""
    count: int = Field(default=50, ge=2, le=2000)
    """About how many pieces."""
    compactness: float = Field(default=10.0, gt=0)
    """SLIC's balance of nearness in space against nearness in colour."""


class SanityCheck(Schema):
    """Cascading randomization of the network's layers, last to first (Adebayo et al., 2018)."""

    max_depths: int = Field(default=12, ge=1, le=200)
    """At most so many depths of randomization, spread evenly over the layers."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the random weights."""


class ExplanationOptions(SteppedOptions):
    """Which method, of which classes, with how much work."""

    method: ExplanationMethod = "integrated_gradients"
    """How the attribution is made."""
    targets: list[ClassRef] | None = Field(default=None, min_length=1, max_length=100)
    """Classes to explain, by index or label, each once; unset means the most probable one."""
    baseline: BaselineKind = "mean"
    """What stands for "nothing there": the preprocessing's mean colour, another colour, a blur, or noise."""
    baseline_image: ImageRef | None = None
    """The picture that stands for "nothing there", with ``baseline="image"``."""
    steps: int | None = Field(default=None, ge=1, le=100_000)
    """Points on the path of integrated gradients; unset means enough for a completeness error of at most 1 %."""
    samples: int | None = Field(default=None, ge=1, le=1_000_000)
    """Perturbed images of the sampling methods; unset means 50 for SmoothGrad, 200 for GradientSHAP, 1,000 for LIME and
    KernelSHAP, which need some more than there are superpixels."""
    noise: float | None = Field(default=None, ge=0, le=1)
    """Standard deviation of the noise on the image, as a share of the input's range; unset means 0.15 for SmoothGrad,
    none for GradientSHAP."""
    layer: str | None = Field(default=None, min_length=1, max_length=256)
    """Module that Grad-CAM reads, by its dotted name; unset means the last one with a spatial feature map, pooling
    aside."""
    window_px: int | None = Field(default=None, ge=1)
    """Side of occlusion's window, in pixels of the network's input; unset means an eighth of it."""
    stride_px: int | None = Field(default=None, ge=1)
    """Stride of occlusion's window, in the same pixels; unset means half the window."""
    superpixels: Superpixels = Field(default_factory=Superpixels)
    """The pieces that LIME and KernelSHAP switch on and off."""
    kernel_width: float = Field(default=0.25, gt=0)
    """Width of LIME's exponential kernel over cosine distance."""
    ridge: float = Field(default=1.0, ge=0)
    """L2 penalty of LIME's surrogate."""
    overlay: bool = True
    """Whether to store a picture of the attribution over the image."""
    curves: bool = False
    """Whether to measure deletion and insertion curves."""
    curve_steps: int = Field(default=50, ge=2, le=1000)
    """Points on each of those curves."""
    sanity_check: SanityCheck | None = None
    """Whether and how to test the method itself on this model and image."""

    @model_validator(mode="after")
    def _baseline_has_its_image(self) -> ExplanationOptions:
        if (self.baseline == "image") != (self.baseline_image is not None):
            raise ValueError('baseline_image and baseline="image" go together: give both or neither')
        return self

    @model_validator(mode="after")
    def _stride_leaves_no_gap(self) -> ExplanationOptions:
        if self.stride_px is not None and self.window_px is not None and self.stride_px > self.window_px:
            raise ValueError(
                f"stride_px ({self.stride_px}) above window_px ({self.window_px}) would leave pixels unexamined"
            )
        return self

    def image_refs(self) -> list[ImageRef]:
        """The baseline picture, if there is one."""
        return [] if self.baseline_image is None else [self.baseline_image]


class ExplanationRequest(Request):
    """Ask which pixels speak for a class, and how far to trust that."""

    task: Literal["explanation"] = "explanation"
    """Selects this request."""
    options: ExplanationOptions = Field(default_factory=ExplanationOptions)
    """Which method, of which classes, with how much work."""
