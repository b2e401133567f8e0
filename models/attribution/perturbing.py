"""Methods that only look at what the network answers to changed inputs.

Shape suffixes: N perturbed inputs, 1 one image, C channels, H height, W width, K classes, T targets.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.attribution.attributor import Attributor, Steps
from models.attribution.question import Question, Settings


@dataclass
class Recorded:
    """Logits of perturbed inputs, of the targets alone; one recording serves all targets of an image."""

    targets: tuple[int, ...]
    parts: list[Tensor] = field(default_factory=list)
    done: int = 0

    def add(self, logits_NT: Tensor) -> None:
        """Take what one step gave."""
        self.parts.append(logits_NT)
        self.done += len(logits_NT)

    def of(self, target: int) -> Tensor:
        """Give one target's logits, float64 (N,)."""
        return torch.cat(self.parts)[:, self.targets.index(target)]


class Perturbing(Attributor):
    """Evaluates perturbed inputs in a fixed order; a subclass makes them, and makes sense of the logits."""

    differentiates = False
    total = 0
    """How many perturbed inputs there are."""

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        targets = question.targets if question.target in question.targets else (question.target,)
        self.recorded: Recorded = question.memo.setdefault(repr(settings), Recorded(targets))

    @property
    def expected(self) -> int:
        """About how many images will go through the network."""
        return self.total - self.recorded.done

    @abstractmethod
    def inputs(self, start: int, number: int) -> Tensor:
        """Make some of the perturbed inputs (N, C, H, W)."""

    def steps(self) -> Steps:
        """Evaluate what has not been evaluated for another target."""
        while self.recorded.done < self.total:

            def compute(number: int, start: int = self.recorded.done) -> Tensor:
                logits_NK = self.question.outputs(self.inputs(start, number))
                return logits_NK[:, list(self.recorded.targets)].double().cpu()

            found, number = self.pace.run(compute, self.total - self.recorded.done)
            self.recorded.add(found)
            self.evaluations += number
            yield self.recorded.done, self.total
