"""How little it takes to fool the network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import SizeWh
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import ClassScore, Result, StopReason


class ChangeNorms(Schema):
    """How much the stored picture differs from the image, for values in [0, 1]."""

    linf: float = Field(ge=0, le=1)
    """Largest change of any value."""
    l2: float = Field(ge=0)
    """Root of the summed squares."""
    changed: Score
    """Share of the pixels that differ at all."""


class Attack(Schema):
    """One attack at one radius."""

    epsilon: float = Field(gt=0)
    """Largest change that was allowed."""
    success: bool
    """Whether the stored file fools the network: it gives the target, or any class but the right one."""
    after: ClassScore
    """What the network says of the stored file."""
    true_score: Score
    """Probability it gives the right class there."""
    target_score: Score | None = None
    """Probability it gives the target there, when there is one."""
    picture: ArtifactRef
    """8-bit RGB PNG: read and decoded again, it is what the figures here were measured on."""
    difference: ArtifactRef
    """PNG of the change, amplified around mid-grey."""
    norms: ChangeNorms
    """How large the change is, measured on the stored file."""
    steps: int = Field(ge=1)
    """Gradient steps made."""


class AdversarialResult(Result):
    """The attacks on one image, one per epsilon."""

    task: Literal["adversarial"] = "adversarial"
    """Selects this result."""
    method: str
    """``fgsm`` or ``pgd``."""
    norm: str
    """``linf`` or ``l2``."""
    before: ClassScore
    """What the network says of the image itself."""
    true_class: ClassScore
    """The class that the attack leads away from, with its probability for the image itself."""
    target: ClassScore | None = None
    """The class it leads to, with its probability for the image itself."""
    attacks: list[Attack] = Field(min_length=1)
    """In the order of the epsilons."""
    picture_size_wh: SizeWh
    """Width and height of the pictures."""
    stopped: StopReason
    """Why it ended."""

    def summary(self) -> str:
        """Say the result in one line, for people."""
        fooled = [attack for attack in self.attacks if attack.success]
        if not fooled:
            return f"{self.before} withstands {self.method} ({self.norm}) at every epsilon"
        best = min(fooled, key=lambda attack: attack.epsilon)
        return f"{self.before} taken for {best.after} at epsilon {best.epsilon:.4g} ({self.method}, {self.norm})"

    def rows(self) -> list[dict[str, str]]:
        """One row per epsilon."""
        return [
            {
                "epsilon": f"{attack.epsilon:.4g}",
                "fooled": "yes" if attack.success else "no",
                "says": str(attack.after),
                "right class": f"{attack.true_score:.1%}",
                "Linf": f"{attack.norms.linf:.4g}",
                "L2": f"{attack.norms.l2:.4g}",
            }
            for attack in self.attacks
        ]
