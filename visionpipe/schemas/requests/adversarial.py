"""Ask how little it takes to fool the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from visionpipe.schemas.base import ClassRef
from visionpipe.schemas.requests.base import Request, SteppedOptions

Radius = Annotated[float, Field(gt=0)]
"""A distance between images whose pixels lie in [0, 1]."""

DEFAULT_EPSILONS: dict[str, tuple[float, ...]] = {"linf": (8 / 255,), "l2": (1.0,)}
"""The radius tried when none is given, by norm."""


class AdversarialOptions(SteppedOptions):
    """Which attack, how strong."""

    method: Literal["fgsm", "pgd"] = "pgd"
    """One signed gradient step (Goodfellow et al., 2014), or many projected ones (Madry et al., 2017)."""
    norm: Literal["linf", "l2"] = "linf"
    """How the change is measured: the largest change of any value, or the root of the summed squares."""
    epsilons: list[Radius] | None = Field(default=None, min_length=1, max_length=64)
    """Largest allowed changes of an image with values in [0, 1], one attack each; unset means 8/255, or 1.0 for L2."""
    target: ClassRef | None = None
    """Class the network shall be led to, by index or label, other than what it says now; unset means any but the right
    one."""
    true_class: ClassRef | None = None
    """The right class, by index or label; unset means what the network says now. Where it says another and there is no
    target, it is fooled without a change."""
    steps: int | None = Field(default=None, ge=1, le=10_000)
    """Steps of ``pgd``; unset means 40."""
    step_size: float | None = Field(default=None, gt=0)
    """Length of one step of ``pgd`` in the norm; unset means 2.5 epsilon / steps."""
    restarts: int = Field(default=1, ge=1, le=100)
    """Random beginnings of ``pgd``; the best is kept."""
    random_start: bool = True
    """Whether ``pgd`` begins at a random point of the allowed ball rather than at the image; restarts always do."""
    amplify: float = Field(default=10.0, ge=1)
    """Factor on the change in the picture of it."""

    @property
    def radii(self) -> tuple[float, ...]:
        """The epsilons to try."""
        return tuple(self.epsilons) if self.epsilons is not None else DEFAULT_EPSILONS[self.norm]

    @model_validator(mode="after")
    def _options_fit_the_method(self) -> AdversarialOptions:
        if self.method == "fgsm" and (self.steps not in (None, 1) or self.step_size is not None or self.restarts > 1):
            raise ValueError('steps, step_size and restarts belong to method "pgd"; "fgsm" is one step of epsilon')
        if self.norm == "linf" and any(epsilon > 1 for epsilon in self.radii):
            raise ValueError("an epsilon above 1 allows any image: pixels lie in [0, 1], so write 8/255 rather than 8")
        if self.target is not None and self.target == self.true_class:
            raise ValueError(f"target and true_class are both {self.target!r}: the target must be another class")
        return self


class AdversarialRequest(Request):
    """Ask for images that look the same and are taken for something else."""

    task: Literal["adversarial"] = "adversarial"
    """Selects this request."""
    options: AdversarialOptions = Field(default_factory=AdversarialOptions)
    """Which attack, how strong."""
