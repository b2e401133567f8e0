"""LIME on superpixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.attribution.answers import Explained
from models.attribution.question import Question, Settings
from models.attribution.surrogate import Floats, Samples, fit, r2, standard_errors
from models.attribution.switching import Switching


class Lime(Switching):
    """Weights of a linear surrogate near the image (Ribeiro et al., 2016).

    Superpixels are shown or hidden with equal chance. A sample counts by an exponential kernel over the cosine
    distance between its mask and the whole image's, as in the authors' code; the surrogate is a ridge regression.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        self.total = self.samples
        self.check_enough(self.pieces + 3)

    def fixed(self) -> NDArray[np.bool_]:
        """Show everything first."""
        return np.ones((1, self.pieces), dtype=bool)

    def draw(self, random: np.random.Generator, number: int) -> NDArray[np.bool_]:
        """Show each superpixel with a chance of one half."""
        drawn: NDArray[np.bool_] = random.random((number, self.pieces)) < 0.5
        return drawn

    @property
    def coefficients(self) -> Floats:
        """Coefficients of a ridge regression to the samples near the image."""
        from captum._utils.models.linear_model import SkLearnRidge

        return fit(self._recorded_samples(), SkLearnRidge(alpha=self.settings.ridge))

    def best(self) -> Explained:
        """Give the weights, with the surrogate's fit and their standard errors."""
        samples, coefficients = self._recorded_samples(), self.coefficients
        errors = standard_errors(samples, coefficients, ridge=self.settings.ridge)
        return self.answer(coefficients, errors, r2=r2(samples, coefficients))

    def _recorded_samples(self) -> Samples:
        masks = self.masks(0, self.recorded.done)
        weights = similarities(masks, self.settings.kernel_width)
        return Samples(masks, self.logits, weights, np.arange(len(masks)) - 1)


def similarities(masks: NDArray[np.bool_], kernel_width: float) -> Floats:
    """Weigh masks (S, M) by exp(-d² / (2 width²)) of their cosine distance d to the mask that shows everything."""
    cosines = np.sqrt(masks.mean(axis=1))
    weights: Floats = np.exp(-((1 - cosines) ** 2) / (2 * kernel_width**2))
    return weights
