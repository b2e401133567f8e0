"""What LIME and KernelSHAP share: superpixels that are shown or hidden, and a surrogate's weights painted on them.

Shape suffixes: N perturbed inputs, 1 one image, C channels, H height, W width, M superpixels.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attribution.answers import Completeness, Explained, relative_error
from models.attribution.perturbing import Perturbing
from models.attribution.question import Question, Settings
from models.attribution.superpixels import cut, levels
from models.attribution.surrogate import Floats
from models.errors import UnsupportedOption

DEFAULT_SAMPLES = 1000
MAX_CELLS = 2**24
"""Most samples times superpixels; the surrogate's fit takes some forty bytes for each."""
BLOCK = 256
"""Samples drawn at once."""


class Switching(Perturbing):
    """Evaluates inputs of which some superpixels show the baseline.

    Raises:
        UnsupportedOption: There are too many samples for the memory, or fewer than two superpixels.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        segments = question.segments_HW
        if segments is None:
            picture = levels(question.x_1CHW, question.low_C, question.high_C)
            segments = cut(picture, settings.algorithm, count=settings.count, compactness=settings.compactness)
        self.segments_HW = np.asarray(segments)
        self.pieces = int(self.segments_HW.max()) + 1
        self.samples = settings.samples or DEFAULT_SAMPLES
        if self.samples * self.pieces > MAX_CELLS:
            raise UnsupportedOption(
                f"Expected at most {MAX_CELLS:,} samples times superpixels, got {self.samples:,} x {self.pieces:,}, "
                f"which would not fit into memory. Choose at most {MAX_CELLS // self.pieces:,} samples, or fewer "
                "superpixels.",
                samples=self.samples,
                superpixels=self.pieces,
            )
        self._segments = torch.from_numpy(self.segments_HW.astype(np.int64)).to(question.x_1CHW.device)
        self._blocks: list[NDArray[np.bool_]] = []

    @abstractmethod
    def fixed(self) -> NDArray[np.bool_]:
        """Give the masks that come first, whatever the seed."""

    @abstractmethod
    def draw(self, random: np.random.Generator, number: int) -> NDArray[np.bool_]:
        """Draw masks (number, M)."""

    @property
    @abstractmethod
    def coefficients(self) -> Floats:
        """The surrogate's coefficients, float64 (M,), fitted to what has been recorded."""

    def check_enough(self, least: int) -> None:
        """Refuse samples that could not tell the superpixels apart.

        Args:
            least: How many are needed.

        Raises:
            UnsupportedOption: There are fewer.
        """
        if self.samples < least:
            raise UnsupportedOption(
                f"Expected at least {least:,} samples to weigh {self.pieces:,} superpixels by {self.settings.method}, "
                f"got {self.samples:,}. Choose more samples, or fewer superpixels.",
                samples=self.samples,
                superpixels=self.pieces,
            )

    def masks(self, start: int, end: int) -> NDArray[np.bool_]:
        """Give the masks between two indices, drawing what has not been drawn."""
        if not self._blocks:
            self._blocks.append(self.fixed())
        first = len(self._blocks[0])
        while first + BLOCK * (len(self._blocks) - 1) < end:
            random = np.random.default_rng((self.settings.seed, len(self._blocks)))
            self._blocks.append(self.draw(random, BLOCK))
        # Only the blocks that are asked for are copied: there may be thousands.
        skipped = 0 if start < first else 1 + (start - first) // BLOCK
        before = 0 if skipped == 0 else first + BLOCK * (skipped - 1)
        last = 1 if end <= first else 1 - (first - end) // BLOCK
        return np.concatenate(self._blocks[skipped:last])[start - before : end - before]

    def inputs(self, start: int, number: int) -> Tensor:
        """Show the baseline wherever a superpixel is hidden."""
        x_1CHW, baseline_1CHW = self.question.x_1CHW, self.question.baseline_1CHW
        masks = torch.from_numpy(self.masks(start, start + number)).to(x_1CHW.device)
        return torch.where(masks[:, self._segments][:, None], x_1CHW, baseline_1CHW)

    @property
    def logits(self) -> Floats:
        """What has been recorded of the target, float64 (N,)."""
        return self.recorded.of(self.question.target).numpy()

    @property
    def has_estimate(self) -> bool:
        """Whether there is anything to fit a surrogate to."""
        return self.recorded.done > 2

    def answer(
        self,
        coefficients: Floats,
        errors: Floats,
        *,
        r2: float | None = None,
        completeness: Completeness | None = None,
    ) -> Explained:
        """Paint the weights on the superpixels."""
        return Explained(
            self._painted(coefficients),
            self.evaluations,
            completeness=completeness,
            surrogate_r2=r2,
            standard_error=relative_error(errors, coefficients),
            segments_HW=self.segments_HW,
            weights=coefficients,
            weight_errors=errors,
        )

    def best_map(self) -> NDArray[np.float32]:
        """Paint the weights without asking how far to trust them, which takes longer than the fit."""
        return self._painted(self.coefficients)

    def _painted(self, coefficients: Floats) -> NDArray[np.float32]:
        painted: NDArray[np.float32] = coefficients.astype(np.float32)[self.segments_HW]
        return painted
