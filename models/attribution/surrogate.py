"""The linear surrogate of LIME and KernelSHAP: fitted by captum to recorded logits, and how far to trust it.

S samples, M superpixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """What the surrogate is fitted to.

    Attributes:
        masks: bool (S, M), true where the superpixel is shown.
        logits: float64 (S,).
        similarities: Weight of each sample, float64 (S,).
        clusters: Neighbours of the same number were drawn together; negative ones were not drawn at random.
    """

    masks: NDArray[np.bool_]
    logits: Floats
    similarities: Floats
    clusters: NDArray[np.int64]


def fit(samples: Samples, model: Any) -> Floats:
    """Let captum fit one of its linear models; gives the coefficients, float64 (M,).

    captum's own loop perturbs and evaluates in one go, and takes its samples one by one; so what it would end with is
    handed to its model here.

    Args:
        samples: Recorded.
        model: Such as captum's ``SkLearnRidge``.
    """
    from threadpoolctl import threadpool_limits

    batch = (samples.masks.astype(np.float64), samples.logits, samples.similarities)
    # So small a fit gains nothing from threads, which would only be taken from the device's work.
    with threadpool_limits(1, user_api="blas"):
        model.fit([tuple(map(torch.from_numpy, batch))])
    coefficients: Floats = model.representation().detach().double().numpy().reshape(-1)
    return coefficients


def r2(samples: Samples, coefficients: Floats) -> float:
    """Give the weighted coefficient of determination of a linear model whose intercept fits best."""
    weights, residuals = samples.similarities, _residuals(samples, coefficients)
    spread = samples.logits - np.average(samples.logits, weights=weights)
    total = float(weights @ spread**2)
    return 1.0 - float(weights @ residuals**2) / total if total > 0 else 0.0


def standard_errors(samples: Samples, coefficients: Floats, *, ridge: float = 0.0) -> Floats:
    """Estimate how much the coefficients would differ between draws of the samples.

    The sandwich estimator for clusters of samples drawn together, each residual raised by its leverage (HC3 of
    MacKinnon & White, 1985): the network is no linear function, so residuals are not noise of one size.

    Args:
        samples: The fit's.
        coefficients: What it gave.
        ridge: Its L2 penalty.

    Returns:
        float64 (M,), infinite while there are no more samples than coefficients.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return _sandwich(samples, coefficients, ridge)


def _sandwich(samples: Samples, coefficients: Floats, ridge: float) -> Floats:
    number, pieces = samples.masks.shape
    drawn = samples.clusters >= 0
    if len(np.unique(samples.clusters[drawn])) <= pieces + 1:
        return np.full(pieces, np.inf)
    design = np.concatenate([np.ones((number, 1)), samples.masks], axis=1)
    weighted = design * samples.similarities[:, None]
    penalty = ridge * np.diag([0.0, *np.ones(pieces)])
    bread = np.linalg.pinv(weighted.T @ design + penalty, hermitian=True)
    leverages = np.einsum("ij,jk,ik->i", design, bread, weighted, optimize=True)
    residuals = _residuals(samples, coefficients) / np.maximum(1 - leverages, 1e-3)
    scores = (weighted * residuals[:, None])[drawn]
    summed = np.add.reduceat(scores, np.flatnonzero(np.diff(samples.clusters[drawn], prepend=-1)))
    covariance = bread @ (summed.T @ summed) @ bread
    errors: Floats = np.sqrt(np.maximum(np.diag(covariance)[1:], 0))
    return errors


def _residuals(samples: Samples, coefficients: Floats) -> Floats:
    fitted = samples.masks @ coefficients
    intercept = np.average(samples.logits - fitted, weights=samples.similarities)
    residuals: Floats = samples.logits - fitted - intercept
    return residuals
