"""Deletion and insertion curves: what the class's probability does while pixels go, or come, by their attribution.

Petsiuk, Das, Saenko: RISE, randomized input sampling for explanation of black-box models, 2018.

Shape suffixes: N inputs, 1 one input, C channels, H height, W width, P pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attribution.attributor import Steps
from models.attribution.pace import Pace
from models.attribution.question import Question, Settings

BLUR_SHARE = 0.1
"""Standard deviation of the blur, as a share of the input's shorter side."""


@dataclass(frozen=True)
class Curve:
    """The class's probability at shares of the pixels.

    Attributes:
        fractions: float64 (P,), rising from 0 to 1.
        scores: float64 (P,), in [0, 1].
    """

    fractions: NDArray[np.float64]
    scores: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the curve, by trapezoids."""
        return float(np.clip(np.trapezoid(self.scores, self.fractions), 0, 1))


@dataclass(frozen=True)
class Curves:
    """How faithful the ranking of the pixels is.

    Attributes:
        deletion: Pixels are replaced by the baseline; small areas are good.
        insertion: Pixels are put onto what insertion starts from; large areas are good.
    """

    deletion: Curve
    insertion: Curve


class CurveTest:
    """Measures both curves, some points of them in each device step.

    Pixels change from the largest attribution to the smallest, all channels of one together; equal ones in an order by
    chance, lest a map of few values be read from the top left. Points come in an order that covers the curves evenly
    whenever it is left.

    Args:
        question: What the attribution answered. Its baseline replaces what is deleted.
        settings: For the seed and the size of steps.
        attribution_HW: The ranking.
        num_points: Of each curve, both ends included.
        start_1CHW: What insertion starts from; the baseline unless given. See ``blurred``.
    """

    def __init__(
        self,
        question: Question,
        settings: Settings,
        attribution_HW: NDArray[np.float32],
        *,
        num_points: int = 50,
        start_1CHW: Tensor | None = None,
    ) -> None:
        num_pixels = attribution_HW.size
        self._question = question
        self._pace = Pace(settings.max_batch, settings.step_s, question.is_awaited)
        self._counts = np.unique(np.linspace(0, num_pixels, num_points).round().astype(int))
        ranks_P = ranks(attribution_HW, seed=settings.seed)
        self._ranks_HW = torch.from_numpy(ranks_P).view(attribution_HW.shape).to(question.x_1CHW.device)
        self._start_1CHW = question.baseline_1CHW if start_1CHW is None else start_1CHW
        self._order = [(curve, point) for point in coarse_to_fine(len(self._counts)) for curve in (0, 1)]
        self._scores = np.full((2, len(self._counts)), np.nan)
        self.evaluations = 0

    def steps(self) -> Steps:
        """Run, yielding after each device step of at most one micro-batch."""
        while self.evaluations < len(self._order):
            left = self._order[self.evaluations :]

            def compute(number: int, left: list[tuple[int, int]] = left) -> NDArray[np.float64]:
                return self._probabilities(left[:number])

            scores, number = self._pace.run(compute, len(left))
            for (curve, point), score in zip(left, scores, strict=False):
                self._scores[curve, point] = score
            self.evaluations += number
            yield self.evaluations, len(self._order)

    @property
    def has_estimate(self) -> bool:
        """Whether both curves have both ends."""
        return not np.isnan(self._scores[:, [0, -1]]).any()

    def best(self) -> Curves:
        """Give the curves through the points so far."""
        return Curves(self._curve(0), self._curve(1))

    def _curve(self, curve: int) -> Curve:
        known = ~np.isnan(self._scores[curve])
        return Curve(self._counts[known] / self._counts[-1], self._scores[curve, known])

    def _probabilities(self, points: list[tuple[int, int]]) -> NDArray[np.float64]:
        """Give the class's probability at some points, float64 (N,)."""
        x_1CHW = self._question.x_1CHW
        inputs = []
        for curve, point in points:
            first_HW = self._ranks_HW < int(self._counts[point])
            new, old = (x_1CHW, self._start_1CHW) if curve else (self._question.baseline_1CHW, x_1CHW)
            inputs.append(torch.where(first_HW, new, old))
        logits_NK = self._question.outputs(torch.cat(inputs))
        scores_N = logits_NK.double().softmax(dim=1)[:, self._question.target]
        scores: NDArray[np.float64] = scores_N.cpu().numpy()
        return scores


def ranks(attribution_HW: NDArray[np.float32], *, seed: int) -> NDArray[np.int64]:
    """Rank pixels in row order: 0 for the largest attribution; equal ones by chance. int64 of shape (H * W,)."""
    values_P = np.nan_to_num(attribution_HW.ravel())
    chance_P = np.random.default_rng(seed).random(values_P.size)
    order_P = np.lexsort((chance_P, -values_P))
    made = np.empty(values_P.size, dtype=np.int64)
    made[order_P] = np.arange(values_P.size)
    return made


def blurred(x_1CHW: Tensor) -> Tensor:
    """Blur an input until little can be told from it, as the paper lets insertion start: (1, C, H, W)."""
    import cv2

    x_HWC = x_1CHW[0].permute(1, 2, 0).cpu().numpy()
    sigma = BLUR_SHARE * min(x_HWC.shape[:2])
    blurred_HWC = cv2.GaussianBlur(x_HWC, (0, 0), sigma, borderType=cv2.BORDER_REFLECT).reshape(x_HWC.shape)
    return torch.from_numpy(blurred_HWC).permute(2, 0, 1)[None].to(x_1CHW)


def coarse_to_fine(number: int) -> list[int]:
    """Order 0 to ``number`` - 1 so that every beginning is spread about evenly, both ends first."""
    made = dict.fromkeys([0, number - 1])
    stride = number
    while len(made) < number:
        stride = max(1, stride // 2)
        made.update(dict.fromkeys(range(0, number, stride)))
    return list(made)
