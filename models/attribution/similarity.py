"""How alike two attributions are.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WINDOW_PX = 7
"""Side of the squares whose means, variances and covariance SSIM compares."""
BRIGHTEST = 0.999
"""Quantile of the absolute values that is full colour, in pictures and for SSIM: single pixels must not darken the
rest."""

Map = NDArray[np.floating[Any]]
"""An attribution (H, W), signed."""


class Similarity(NamedTuple):
    """Of two maps; each number lies in [-1, 1], and 1 means the same."""

    rank_correlation: float
    """Spearman's, over all pixels."""
    rank_correlation_abs: float
    """The same of the absolute values."""
    ssim: float
    """Structural similarity."""


def similarity(one_HW: Map, other_HW: Map) -> Similarity:
    """Compare two maps of one size; a map of one value, or with numbers that are not finite, is like no other."""
    return Similarity(
        rank_correlation(one_HW, other_HW),
        rank_correlation(np.abs(one_HW), np.abs(other_HW)),
        structural_similarity(one_HW, other_HW),
    )


def import_libraries() -> None:
    """Import now what comparing maps needs: a second or two that a device should not wait."""
    similarity(np.eye(WINDOW_PX), np.eye(WINDOW_PX))


def rank_correlation(one_HW: Map, other_HW: Map) -> float:
    """Give Spearman's rank correlation over all pixels; 0 where a map has but one value."""
    from scipy.stats import spearmanr

    if is_flat(one_HW) or is_flat(other_HW):
        return 0.0
    return float(np.clip(spearmanr(one_HW.ravel(), other_HW.ravel()).statistic, -1, 1))


def structural_similarity(one_HW: Map, other_HW: Map) -> float:
    """Give SSIM (Wang et al., 2004) of two maps as pictures show them; 0 where a map has but one value."""
    from skimage import metrics

    if is_flat(one_HW) or is_flat(other_HW):
        return 0.0
    one_HW, other_HW = shown(one_HW), shown(other_HW)
    lowest = min(float(one_HW.min()), float(other_HW.min()))
    missing = [max(0, WINDOW_PX - side) for side in one_HW.shape]
    padding = [(0, pixels) for pixels in missing]
    padded = (np.pad(values_HW, padding, mode="edge") for values_HW in (one_HW, other_HW))
    ssim: Any = metrics.structural_similarity
    return float(ssim(*padded, win_size=WINDOW_PX, data_range=2.0 if lowest < 0 else 1.0))


def shown(values_HW: Map) -> NDArray[np.float64]:
    """Scale a map to [-1, 1] so that few pixels are clipped: 0 stays 0, 1 is the 0.999 quantile of absolute values."""
    values_HW = np.nan_to_num(np.asarray(values_HW, np.float64), posinf=0.0, neginf=0.0)
    sizes_HW = np.abs(values_HW)
    # A map of few pixels other than zero has a quantile of zero.
    largest = float(np.quantile(sizes_HW, BRIGHTEST)) or float(sizes_HW.max(initial=0))
    return np.clip(values_HW / max(largest, np.finfo(np.float64).tiny), -1, 1)


def is_flat(values_HW: Map) -> bool:
    """Tell whether a map says nothing: one value everywhere, or numbers that are not finite."""
    return not np.isfinite(values_HW).all() or float(values_HW.min()) == float(values_HW.max())
