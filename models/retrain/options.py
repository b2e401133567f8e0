"""How to retrain; light to import, because the command line reads the defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from models.errors import RetrainFailed

Mode = Literal["head", "svm", "full"]
"""What is trained: a new last layer, a linear support vector machine in its place, or every layer."""

Augmentation = Literal["none", "light", "flip"]
"""How training pictures are varied: not at all, by small turns, shifts and changes of light, or mirrored as well."""

Report = Callable[[str, int, int, str], None]
"""Told of progress: stage, steps done, steps in all, and a word about the last one."""

EPOCHS: dict[Mode, int] = {"head": 200, "svm": 0, "full": 30}
"""Passes over the training pictures unless told otherwise; early stopping usually ends them sooner."""
RATES: dict[Mode, float] = {"head": 1e-2, "svm": 0.0, "full": 1e-4}
"""Learning rates of AdamW unless told otherwise."""
PATIENCE: dict[Mode, int] = {"head": 20, "svm": 0, "full": 5}
"""Epochs without a lower validation loss after which training ends."""


@dataclass(frozen=True, kw_only=True)
class RetrainOptions:
    """How to retrain."""

    mode: Mode = "head"
    """What is trained."""
    epochs: int | None = None
    """Most passes over the training pictures; ``None`` takes the mode's. An SVM has none."""
    batch: int = 32
    """Pictures in one step, and in one forward pass for features."""
    learning_rate: float | None = None
    """Of AdamW; ``None`` takes the mode's."""
    weight_decay: float = 1e-2
    """Of AdamW, relative to the learning rate. How strongly the SVM is regularised is found by cross-validation."""
    validation_fraction: float = 0.2
    """Part of each class that is not trained on but stops the training and measures it; at least one picture."""
    augmentation: Augmentation = "light"
    """How training pictures are varied."""
    views: int = 4
    """With frozen features: versions of each training picture, the first as it is, whose features are computed once."""
    seed: int = 0
    """Of the split, the variations, the order and the initial weights."""
    device: str = "auto"
    """Where to compute: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (self.epochs is None or self.epochs >= 1, "at least 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "learning_rate": (self.learning_rate is None or self.learning_rate > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "at least 0"),
            "validation_fraction": (0 < self.validation_fraction <= 0.5, "above 0 and at most 0.5"),
            "views": (self.views >= 1, "at least 1"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
        }
        for name, (holds, bound) in bounds.items():
            if not holds:
                raise RetrainFailed(f"{name}: expected {bound}, got {getattr(self, name)}.", option=name)

    @property
    def max_epochs(self) -> int:
        """Most passes over the training pictures."""
        return EPOCHS[self.mode] if self.epochs is None else self.epochs

    @property
    def rate(self) -> float:
        """The learning rate."""
        return RATES[self.mode] if self.learning_rate is None else self.learning_rate

    @property
    def num_views(self) -> int:
        """Versions of each training picture for frozen features."""
        return 1 if self.augmentation == "none" else self.views


def unreported(stage: str, done: int, total: int, note: str) -> None:
    """Tell nobody."""
