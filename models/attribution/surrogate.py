"""The linear surrogates of LIME and KernelSHAP, fitted to recorded logits, and how far to trust them.

S samples, M superpixels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float64]
_FITTING = threading.Lock()


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
    batch = (samples.masks.astype(np.float64), samples.logits, samples.similarities)
    with _one_thread():
        model.fit([tuple(map(torch.from_numpy, batch))])
    coefficients: Floats = model.representation().detach().double().numpy().reshape(-1)
    return coefficients


def r2(samples: Samples, coefficients: Floats) -> float | None:
    """Give the weighted coefficient of determination of a linear model whose intercept fits best.

    ``None`` while there are no more samples than the model has numbers, which it then meets whatever they are.
    """
    if len(samples.masks) <= samples.masks.shape[1] + 1:
        return None
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
    number, pieces = samples.masks.shape
    design = np.concatenate([np.ones((number, 1)), samples.masks], axis=1)
    penalty = ridge * np.diag([0.0, *np.ones(pieces)])
    return _sandwich(samples, design, _residuals(samples, coefficients), penalty)[1:]


class AddingUp:
    """Least squares among coefficients that add up to a given sum, of a surrogate with a given intercept.

    Instead of eliminating one coefficient (Covert & Lee, 2021), each gets an equal share of the sum, and what is left
    is fitted by masks that are centred, whose coefficients add up to 0: then none is favoured while samples are few.

    Args:
        samples: Recorded.
        intercept: The logit while nothing is shown.
        total: What the coefficients add up to.

    Attributes:
        coefficients: float64 (M,).
    """

    def __init__(self, samples: Samples, *, intercept: float, total: float) -> None:
        shares = samples.masks.mean(axis=1)
        self._samples = samples
        self._design = samples.masks - shares[:, None]
        self._rest = samples.logits - intercept - shares * total
        with _one_thread():
            weighted = self._design * samples.similarities[:, None]
            self._parts = _inverse(weighted.T @ self._design) @ (weighted.T @ self._rest)
        self._parts -= self._parts.mean()
        self.coefficients: Floats = total / samples.masks.shape[1] + self._parts

    def standard_errors(self) -> Floats:
        """Estimate how much the coefficients would differ between draws; see the function of that name."""
        residuals = self._rest - self._design @ self._parts
        return _sandwich(self._samples, self._design, residuals, np.zeros(1))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the linear algebra to one thread: so small a fit gains nothing from more, which the device's work needs."""
    # The limit is the process's: two fits that overlap would restore each other's.
    with _FITTING, _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> ThreadpoolController:
    # Looking for a process's libraries takes longer than a fit. Those of scikit-learn must be there by then.
    import sklearn.linear_model  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _sandwich(samples: Samples, design: Floats, residuals: Floats, penalty: Floats) -> Floats:
    drawn = samples.clusters >= 0
    if len(np.unique(samples.clusters[drawn])) <= samples.masks.shape[1] + 1:
        return np.full(design.shape[1], np.inf)
    with _one_thread():
        weighted = design * samples.similarities[:, None]
        bread = _inverse(weighted.T @ design + penalty)
        leverages = np.einsum("ij,ij->i", design @ bread, weighted)
        scores = (weighted * (residuals / np.maximum(1 - leverages, 1e-3))[:, None])[drawn]
        summed = np.add.reduceat(scores, np.flatnonzero(np.diff(samples.clusters[drawn], prepend=-1)))
        covariance = bread @ (summed.T @ summed) @ bread
    errors: Floats = np.sqrt(np.maximum(np.diag(covariance), 0))
    return errors


def _inverse(matrix: Floats) -> Floats:
    # Directions without evidence have eigenvalues of rounding errors.
    return np.linalg.pinv(matrix, rcond=1e-12, hermitian=True).astype(np.float64, copy=False)


def _residuals(samples: Samples, coefficients: Floats) -> Floats:
    fitted = samples.masks @ coefficients
    intercept = np.average(samples.logits - fitted, weights=samples.similarities)
    residuals: Floats = samples.logits - fitted - intercept
    return residuals
