"""What attacks tell people: the files, and what was measured on them after reading them again.

Shape suffixes: C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attacks import Goal, Subject
from models.cards import Card
from models.images import decode
from models.preprocess import Preprocess
from visionpipe.schemas.requests import AdversarialOptions
from visionpipe.schemas.results import AdversarialResult, ClassScore, StopReason
from visionpipe.schemas.results.adversarial import Attack, ChangeNorms
from workers.encoding import png
from workers.labels import label_of
from workers.work import Work


@dataclass(frozen=True, eq=False)
class Measured:
    """What the answering network says of one attacked input.

    Attributes:
        levels: The input before normalisation, uint8 (C, H, W).
        probabilities: Of each class (K,).
        after: The class it says.
        num_steps: Gradient steps made.
    """

    levels: Tensor
    probabilities: Tensor
    after: int
    num_steps: int

    def fools(self, goal: Goal) -> bool:
        """Whether the goal is reached."""
        return _is_success(self.after, goal)


@dataclass(frozen=True, eq=False)
class Outcome:
    """The attacks on one picture.

    Attributes:
        subject: The picture.
        goal: What was wanted.
        before: Probability of each class (K,) for the picture itself.
        measured: By the number of the epsilon.
        reason: Why the search ended.
    """

    subject: Subject
    goal: Goal
    before: Tensor
    measured: Mapping[int, Measured]
    reason: StopReason


def says(probabilities_K: Tensor, goal: Goal) -> int:
    """Name the most probable class; of equal ones the one that is no success, if there is one."""
    equal = torch.nonzero(probabilities_K == probabilities_K.max())[:, 0].tolist()
    failures = [class_id for class_id in equal if not _is_success(class_id, goal)]
    return int((failures or equal)[0])


def finished(work: Work, card: Card, outcome: Outcome) -> AdversarialResult:
    """Encode and keep the pictures, and measure them as they are read again.

    Raises:
        RuntimeError: A stored picture does not give the input that was measured, or differs by more than epsilon.
    """
    options = work.request.options
    assert isinstance(options, AdversarialOptions)
    goal, before_K = outcome.goal, outcome.before
    attacks = [
        _attack(work, card, outcome, epsilon=options.radii[which], measured=outcome.measured[which], options=options)
        for which in sorted(outcome.measured)
    ]
    return AdversarialResult(
        image_size_wh=work.size_wh,
        partial=outcome.reason not in ("finished", "converged"),
        method=options.method,
        norm=options.norm,
        before=_score(card, before_K, int(before_K.argmax())),
        true_class=_score(card, before_K, goal.true_class),
        target=None if goal.target is None else _score(card, before_K, goal.target),
        attacks=attacks,
        picture_size_wh=outcome.subject.picture.size,
        stopped=outcome.reason,
    )


def _attack(
    work: Work, card: Card, outcome: Outcome, *, epsilon: float, measured: Measured, options: AdversarialOptions
) -> Attack:
    subject, goal = outcome.subject, outcome.goal
    data = png(subject.altered(measured.levels))
    stored = decode(data, max_bytes=len(data), max_pixels=subject.picture.width * subject.picture.height).image
    change = subject.change(stored)
    again = Preprocess(card.preprocess).levels(stored)
    if not torch.equal(again, measured.levels) or getattr(change, options.norm) > epsilon:
        raise RuntimeError(f"{card.name}: the stored picture is not what was measured: {change}, epsilon {epsilon}")
    return Attack(
        epsilon=epsilon,
        success=measured.fools(goal),
        after=_score(card, measured.probabilities, measured.after),
        true_score=_probability(measured.probabilities, goal.true_class),
        target_score=None if goal.target is None else _probability(measured.probabilities, goal.target),
        picture=work.keep(data, "image/png"),
        difference=work.keep(png(subject.difference(measured.levels, options.amplify)), "image/png"),
        norms=ChangeNorms(linf=change.linf, l2=change.l2, changed=change.changed),
        steps=measured.num_steps,
    )


def _is_success(class_id: int, goal: Goal) -> bool:
    return class_id != goal.true_class if goal.target is None else class_id == goal.target


def _score(card: Card, probabilities_K: Tensor, class_id: int) -> ClassScore:
    return ClassScore(class_id=class_id, label=label_of(card, class_id), score=_probability(probabilities_K, class_id))


def _probability(probabilities_K: Tensor, class_id: int) -> float:
    return min(max(float(probabilities_K[class_id]), 0.0), 1.0)
