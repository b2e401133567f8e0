"""KernelSHAP on superpixels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from models.attribution.answers import Completeness, Explained
from models.attribution.question import Question, Settings
from models.attribution.surrogate import AddingUp, Floats, Samples
from models.attribution.switching import Switching

MOST_ENUMERATED = 16
"""Most superpixels of which all subsets are listed."""


class KernelShap(Switching):
    """Shapley values as the coefficients of a weighted regression (Lundberg & Lee, 2017).

    Subsets are drawn from the Shapley kernel, each together with its complement, which takes much of the variance away
    (Covert & Lee, 2021); the values add up exactly. Where the samples suffice for all subsets, each is evaluated once,
    and the values are exact.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        self.is_exact = self.pieces <= MOST_ENUMERATED and self.samples >= 2**self.pieces - 2
        if not self.is_exact:
            self.check_enough(min(2 * (self.pieces + 2), 2**self.pieces - 2))
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

    @property
    def coefficients(self) -> Floats:
        """Shapley values, as far as the samples tell them."""
        return self._fit().coefficients

    def best(self) -> Explained:
        """Give the Shapley values, with their standard errors and completeness.

        They add up by construction; that is told once there are enough samples to tell them apart.
        """
        fitted, (whole, nothing) = self._fit(), self.logits[:2]
        done = self.is_exact and self.recorded.done >= self.total
        errors = np.zeros(self.pieces) if done else fitted.standard_errors()
        completeness = Completeness(float(fitted.coefficients.sum()), float(whole - nothing))
        return self.answer(
            fitted.coefficients, errors, completeness=completeness if np.isfinite(errors).all() else None
        )

    def _fit(self) -> AddingUp:
        logits = self.logits
        whole, nothing = map(float, logits[:2])
        masks = self.masks(2, len(logits))
        weights = self._kernel(masks) if self.is_exact else np.ones(len(masks))
        clusters = np.arange(len(masks)) // (1 if self.is_exact else 2)
        return AddingUp(Samples(masks, logits[2:], weights, clusters), intercept=nothing, total=whole - nothing)

    def _kernel(self, masks: NDArray[np.bool_]) -> Floats:
        """Weigh subsets by the Shapley kernel, 1 on average."""
        by_size = [1.0] * (self.pieces + 1)
        for size in range(1, self.pieces):
            by_size[size] = 1 / (math.comb(self.pieces, size) * size * (self.pieces - size))
        weights: Floats = np.array(by_size)[masks.sum(axis=1)]
        weights /= weights.mean()
        return weights
