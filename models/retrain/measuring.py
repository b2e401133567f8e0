"""How often a retrained network is right, on pictures that did not train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from models.retrain.base import Base
from models.retrain.dataset import Dataset
from models.retrain.finetune import all_logits
from models.retrain.options import RetrainOptions


@dataclass(frozen=True)
class Measured:
    """One figure."""

    name: str
    """Of which pictures: ``validation`` or ``test``."""
    split: str
    """The same, in a sentence for the card."""
    confusion: NDArray[np.int64]
    """Counts of shape (K, K): the true class by row, the answer by column."""

    @property
    def num_images(self) -> int:
        """How many pictures were asked about."""
        return int(self.confusion.sum())

    @property
    def num_right(self) -> int:
        """How many answers were right."""
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        """Their share."""
        return self.num_right / self.num_images


def measure(
    base: Base, data: Dataset, indices: Sequence[int], options: RetrainOptions, *, name: str, split: str
) -> Measured:
    """Ask the network, as its worker will, about some pictures."""
    answers = all_logits(base, data, indices, options).argmax(dim=1).numpy()
    counts = confusion_matrix(data.target_array(indices), answers, labels=np.arange(len(data.labels)))
    return Measured(name, split, np.asarray(counts, dtype=np.int64))
