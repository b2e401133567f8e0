"""KernelSHAP on superpixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.attribution.answers import Completeness, Explained
from models.attribution.question import Question, Settings
from models.attribution.surrogate import Floats, Samples, fit, standard_errors
from models.attribution.switching import Switching

END_WEIGHT = 1e6
"""captum's stand-in for the infinite weight of the image and the baseline, which the surrogate must meet."""
MOST_ENUMERATED = 16
"""Most superpixels of which all subsets are listed."""


class KernelShap(Switching):
    """Shapley values as the coefficients of a weighted regression (Lundberg & Lee, 2017).

    Subsets are drawn from the Shapley kernel, each together with its complement, which takes much of the variance away
    (Covert & Lee, 2021). Where the samples suffice for all subsets, each is evaluated once, and the values are exact.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        self.is_exact = self.pieces <= MOST_ENUMERATED and self.samples >= 2**self.pieces - 2
        self.total = 2 + (2**self.pieces - 2 if self.is_exact else self.samples)

    def fixed(self) -> NDArray[np.bool_]:
        """Show everything, then nothing; then every subset, if there are few."""
        ends = np.repeat([[True], [False]], self.pieces, axis=1)
        if not self.is_exact:
            return ends
        numbers = np.random.default_rng(self.settings.seed).permutation(np.arange(1, 2**self.pieces - 1))
        subsets = (numbers[:, None] >> np.arange(self.pieces)) & 1
        return np.concatenate([ends, subsets.astype(bool)])

    def draw(self, random: np.random.Generator, number: int) -> NDArray[np.bool_]:
        """Draw subsets from the Shapley kernel, and after each its complement."""
        sizes = np.arange(1, self.pieces)
        chances = 1 / (sizes * (self.pieces - sizes))
        shown = random.choice(sizes, size=number // 2, p=chances / chances.sum())
        ranks = random.random((number // 2, self.pieces)).argsort(axis=1).argsort(axis=1)
        subsets = ranks < shown[:, None]
        return np.stack([subsets, ~subsets], axis=1).reshape(-1, self.pieces)

    def fitted(self, masks: NDArray[np.bool_], logits: Floats) -> tuple[Samples, Floats]:
        """Fit a regression that meets both ends."""
        from captum._utils.models.linear_model import SkLearnLinearRegression

        weights = self._kernel(masks) if self.is_exact else np.ones(len(masks))
        weights[:2] = END_WEIGHT
        clusters = np.arange(-2, len(masks) - 2) if self.is_exact else (np.arange(len(masks)) - 2) // 2
        samples = Samples(masks, logits, weights, clusters)
        return samples, fit(samples, SkLearnLinearRegression())

    def best(self) -> Explained:
        """Give the Shapley values, with their standard errors and completeness."""
        logits = self.recorded.of(self.question.target).numpy()
        samples, coefficients = self.fitted(self.masks(len(logits)), logits)
        done = self.is_exact and len(logits) == self.total
        errors = np.zeros(self.pieces) if done else standard_errors(samples, coefficients)
        completeness = Completeness(float(coefficients.sum()), float(logits[0] - logits[1]))
        return self.answer(samples, coefficients, errors, completeness=completeness)

    def _kernel(self, masks: NDArray[np.bool_]) -> Floats:
        """Weigh subsets by the Shapley kernel, 1 on average."""
        by_size = [1.0] * (self.pieces + 1)
        for size in range(1, self.pieces):
            by_size[size] = 1 / (math.comb(self.pieces, size) * size * (self.pieces - size))
        weights: Floats = np.array(by_size)[masks.sum(axis=1)]
        weights /= weights[2:].mean()
        return weights
