"""Whether a method passes the sanity check, by how its maps change while a network becomes random.

Suffixes: N images, D depths, 3 the numbers of a ``Similarity``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["passes", "fails", "inconclusive"]

FAILS_FROM = 1 / 2
"""Share of the ranks' variance (squared rank correlation), averaged over the depths, from which a method fails: most of
what it shows then comes from the picture and the architecture, whatever the weights. On the digits' networks guided
backpropagation keeps about 0.75, while gradients, integrated gradients and Grad-CAM keep 0.0 to 0.3, so the bound lies
amid the gap. The average is taken since a map may well fall apart at last, when the first filters go."""
PASSES_BELOW = 1 / 3
"""Averaged share below which a method may pass. Not 0: absolute gradients of unrelated networks are alike by their
strides and pooling alone."""
END_BELOW = 1 / 4
"""Share with all layers random below which a method may pass: what is less than a large correlation (0.5) by Cohen's
convention (Statistical power analysis for the behavioral sciences, 1988)."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason.

    Attributes:
        verdict: ``fails`` where the maps stay alike, ``passes`` where they do not, else ``inconclusive``.
        reason: In words and numbers.
        kept: Share of the ranks' variance that is kept, averaged over the depths.
        kept_abs: The same of the absolute values.
    """

    verdict: Verdict
    reason: str
    kept: float
    kept_abs: float


def judge(
    similarities_ND3: NDArray[np.float64],
    *,
    layers: Sequence[str],
    num_random: Sequence[int],
    num_layers: int,
    num_pixels: int,
    says_nothing: bool = False,
) -> Judgement:
    """Judge a method by its similarities on one image or several.

    Correlations are averaged over the images before they are squared, so that chance cancels out.

    Args:
        similarities_ND3: Rank correlation, that of absolute values, and SSIM at each depth.
        layers: The D layers down to which the network was random.
        num_random: How many layers that were.
        num_layers: How many there are.
        num_pixels: Of a map.
        says_nothing: Whether the trained network's map has but one value.
    """
    means_D3 = np.asarray(similarities_ND3, dtype=np.float64).mean(axis=0)
    shares_D = _shares(means_D3)
    kept, kept_abs = float(shares_D.mean()), float((means_D3[:, 1].clip(0) ** 2).mean())
    verdict, because = _verdict(kept, kept_abs, float(shares_D[-1]), is_full=num_random[-1] == num_layers)
    if says_nothing:
        verdict, because = "inconclusive", "The trained network's map has but one value: there is nothing to compare."
    images = "" if len(similarities_ND3) == 1 else f", mean of {len(similarities_ND3)} images"
    reason = (
        f"{because} Over {len(layers)} depth{'s' * (len(layers) > 1)} it keeps {kept:.0%} of the ranks' variance "
        f"(passes below {PASSES_BELOW:.0%}, fails from {FAILS_FROM:.0%}). "
        f"{_correlations(means_D3, layers, num_random, num_layers)} ({num_pixels:,} pixels{images})."
    )
    return Judgement(verdict, reason, kept, kept_abs)


def _verdict(kept: float, kept_abs: float, end: float, *, is_full: bool) -> tuple[Verdict, str]:
    if not is_full:
        return "inconclusive", "Stopped before all layers were random."
    if kept >= FAILS_FROM:
        return "fails", "The map stays alike while the network forgets: it shows the picture more than the network."
    if kept_abs >= FAILS_FROM:
        return "inconclusive", "The map's signs depend on the network, but where it is strong hardly does."
    if kept < PASSES_BELOW and end < END_BELOW:
        return "passes", "The map changes with what the network has learnt."
    return "inconclusive", "The map changes with the network, but a part of it stays."


def _shares(means_D3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Square the rank correlations; a map that is turned around counts as alike only if but its signs are."""
    signed_D, absolute_D = means_D3[:, 0], means_D3[:, 1]
    return np.where((signed_D < 0) & (absolute_D <= 0), 0.0, signed_D) ** 2


def _correlations(
    means_D3: NDArray[np.float64], layers: Sequence[str], num_random: Sequence[int], num_layers: int
) -> str:
    first, last = means_D3[0].round(2) + 0.0, means_D3[-1].round(2) + 0.0
    begin = f"{first[0]:.2f} with {layers[0]} random" if num_random[0] == 1 else ""
    all_of = "all" if num_random[-1] == num_layers else f"{num_random[-1]} of"
    end = f"{last[0]:.2f} with {all_of} {num_layers} layers random (absolute values {last[1]:.2f}, SSIM {last[2]:.2f})"
    told = end if len(layers) == 1 or not begin else f"{begin}, and {end}"
    return f"Rank correlation with the trained network's map: {told}"
