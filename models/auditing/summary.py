"""What the figures of a method amount to over all pictures.

Suffixes: N pictures, D depths, 3 the numbers of a ``Similarity``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.attribution import Method
from models.attribution.sanity_verdict import Judgement, judge
from models.auditing.measuring import Figures


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over the pictures; one picture has no deviation."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float | None] | NDArray[np.float64]) -> Spread | None:
        """Summarize what there is; ``None`` if there is nothing."""
        known = np.array([value for value in values if value is not None], dtype=np.float64)
        if not known.size:
            return None
        return cls(float(known.mean()), float(known.std()) if known.size > 1 else None)

    def __str__(self) -> str:
        return f"{round(self.mean, 2) + 0.0:.2f}" + ("" if self.sd is None else f" ±{self.sd:.2f}")


@dataclass(frozen=True)
class Summary:
    """One method over all pictures.

    Attributes:
        method: The method.
        num_images: Pictures it was audited on.
        fault: Why the network cannot do it, if it cannot; then nothing else is known.
        judgement: The verdict from the mean correlations.
        verdicts: On how many pictures alone it ``passes``, is ``inconclusive``, ``fails``.
        correlation: Rank correlation with all layers random.
        correlation_abs: The same of absolute values.
        ssim: Structural similarity with all layers random.
        deletion_auc: Area under the deletion curve.
        insertion_auc: Area under the insertion curve.
        completeness_error: Of methods that promise completeness.
        seconds: Of one attribution.
    """

    method: Method
    num_images: int
    fault: str | None = None
    judgement: Judgement | None = None
    verdicts: tuple[int, int, int] = (0, 0, 0)
    correlation: Spread | None = None
    correlation_abs: Spread | None = None
    ssim: Spread | None = None
    deletion_auc: Spread | None = None
    insertion_auc: Spread | None = None
    completeness_error: Spread | None = None
    seconds: Spread | None = None


def summarize(method: Method, figures: Sequence[Figures], fault: str | None = None) -> Summary:
    """Condense a method's figures; pictures of different sizes may have maps of different sizes."""
    if not figures:
        return Summary(method, 0, fault)
    first = figures[0]
    similarities_ND3 = np.array([[depth[2:] for depth in one.depths] for one in figures], dtype=np.float64)
    judgement = None
    last_N3: NDArray[np.float64] | None = None
    if first.depths:
        last_N3 = similarities_ND3[:, -1]
        judgement = judge(
            similarities_ND3,
            layers=[depth[0] for depth in first.depths],
            num_random=[depth[1] for depth in first.depths],
            num_layers=first.num_layers,
            num_pixels=first.num_pixels,
        )
    verdicts = [one.verdict for one in figures]
    return Summary(
        method,
        len(figures),
        judgement=judgement,
        verdicts=(verdicts.count("passes"), verdicts.count("inconclusive"), verdicts.count("fails")),
        correlation=None if last_N3 is None else Spread.of(last_N3[:, 0]),
        correlation_abs=None if last_N3 is None else Spread.of(last_N3[:, 1]),
        ssim=None if last_N3 is None else Spread.of(last_N3[:, 2]),
        deletion_auc=Spread.of([one.deletion_auc for one in figures]),
        insertion_auc=Spread.of([one.insertion_auc for one in figures]),
        completeness_error=Spread.of([one.completeness_error for one in figures]),
        seconds=Spread.of([one.seconds for one in figures]),
    )
