"""How little it takes to fool the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from visionpipe.extras import images_extra
from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.geometry import SizeWh
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import ClassScore, StopReason
from visionpipe.schemas.results.parts import ListResult

if TYPE_CHECKING:
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas

LEVELS = 255
"""Steps of an 8-bit pixel from black to white."""
CELL_PX = 320
"""Side of each picture in a drawing."""


class ChangeNorms(Schema):
    """How much the stored picture differs from the image, for values in [0, 1]."""

    linf: float = Field(ge=0, le=1)
    """Largest change of any value."""
    l2: float = Field(ge=0)
    """Root of the summed squares, over the channels that the network sees."""
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
    steps: int = Field(ge=0)
    """Gradient steps made; none where the network is wrong already and nothing need be changed."""


def epsilon_text(epsilon: float, norm: str) -> str:
    """Write a radius for people: of L-infinity in grey levels where it is a whole number of them."""
    levels = LEVELS * epsilon
    whole = norm == "linf" and round(levels) > 0 and abs(levels - round(levels)) < 1e-6
    return f"{round(levels)}/{LEVELS}" if whole else f"{epsilon:.4g}"


class AdversarialResult(ListResult[Attack]):
    """The attacks on one image, one per epsilon."""

    PARTS: ClassVar[str] = "attacks"

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
        if self.target is None and self.before.class_id != self.true_class.class_id:
            return f"{self.before} instead of {self.true_class} without any change"
        if self.least is None and self.target is not None:
            return f"{self.before} is not led to {self.target.label} by {self.method} ({self.norm}) at any epsilon"
        if self.least is None:
            return f"{self.before} withstands {self.method} ({self.norm}) at every epsilon"
        epsilon = epsilon_text(self.least.epsilon, self.norm)
        return f"{self.before} taken for {self.least.after} at epsilon {epsilon} ({self.method}, {self.norm})"

    @property
    def least(self) -> Attack | None:
        """The attack that fooled the network at the smallest epsilon, if one did."""
        fooled = [attack for attack in self.attacks if attack.success]
        return min(fooled, key=lambda attack: attack.epsilon, default=None)

    def shown_artifact(self) -> str | None:
        """Path of the field whose artifact people like to see: the picture that ``summary`` speaks of."""
        return f"attacks.{0 if self.least is None else self.attacks.index(self.least)}.picture"

    def rows(self) -> list[dict[str, str]]:
        """One row per epsilon."""
        return [
            {
                "epsilon": epsilon_text(attack.epsilon, self.norm),
                "fooled": "yes" if attack.success else "no",
                "says": str(attack.after),
                "right class": f"{attack.true_score:.1%}",
                "Linf": f"{attack.norms.linf:.4g}",
                "L2": f"{attack.norms.l2:.4g}",
            }
            for attack in self.attacks
        ]

    def filter(
        self,
        *,
        success: bool | None = None,
        max_epsilon: float = float("inf"),
        where: Callable[[Attack], bool] | None = None,
    ) -> Self:
        """Keep some of the attacks: those that fooled the network (or did not), up to a radius, or by a test."""
        return self.with_parts(
            attack
            for attack in self
            if attack.success in ({True, False} if success is None else {success})
            and attack.epsilon <= max_epsilon
            and (where is None or where(attack))
        )

    def picture_image(self, index: int = 0) -> Image:
        """Fetch the stored picture of one attack, RGB; errors as ``Result.read``."""
        with images_extra():
            from visionpipe.drawing.files import decode

        return decode(self.read(self.attacks[index].picture, "picture"))

    def difference_image(self, index: int = 0) -> Image:
        """Fetch the amplified change of one attack, RGB; errors as ``Result.read``."""
        with images_extra():
            from visionpipe.drawing.files import decode

        return decode(self.read(self.attacks[index].difference, "difference"))

    def _paint(self, canvas: Canvas | None) -> Image:
        from visionpipe.drawing.sheets import Cell, sheet

        rows: list[list[Cell]] = []
        for index, attack in enumerate(self.attacks):
            before: list[Cell] = [] if canvas is None else [(canvas.picture, str(self.before))]
            change = f"change, epsilon {epsilon_text(attack.epsilon, self.norm)}, amplified"
            after = f"{attack.after}{', fooled' if attack.success else ''}"
            rows.append([*before, (self.difference_image(index), change), (self.picture_image(index), after)])
        return sheet(rows, cell_px=CELL_PX, title=self.summary())
