"""A linear support vector machine on frozen features, as the last layer of the network it serves.

Shape suffixes: N samples, D features, K classes.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from models.retrain.frozen import Fitted, Samples, unscaled
from models.retrain.options import Report, RetrainOptions

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Values of C among which cross-validation on the training pictures chooses, the strongest regularisation first."""
MAX_FOLDS = 5
"""Folds of the cross-validation; fewer where a class has fewer pictures."""
MAX_SEARCHED = 2000
"""Pictures that take part in the cross-validation, whose cost grows with their number times the folds."""
MAX_ITERATIONS = 5000
"""Of liblinear; one that stops there separates well enough."""


def fit_svm(training: Samples, num_classes: int, options: RetrainOptions, report: Report) -> Fitted:
    """Fit one-against-the-rest linear SVMs, and scale their margins so that a softmax gives probabilities.

    The scale minimises the cross-entropy of margins of pictures that the machine was not fitted to (temperature
    scaling, Guo et al. 2017; with two classes it is Platt's sigmoid without an offset), against Platt's softened
    targets, so that few pictures, all told right, do not make it certain. It changes no answer.
    """
    searched = _some(training, options.seed)
    folds = int(min(MAX_FOLDS, _num_pictures(searched).min()))
    margins = {}
    for done, strength in enumerate(STRENGTHS, start=1):
        margins[strength] = _held_out_margins(searched, strength, num_classes, folds, options.seed)
        right = _accuracy(margins[strength], searched.targets)
        report("cross-validation", done, len(STRENGTHS), f"C = {strength:g}: {right:.1%} right")
    wanted = _softened(searched, num_classes)
    scales = {strength: _scale(found, wanted) for strength, found in margins.items()}
    # Of those that are right most often, the one whose probabilities are best.
    best = max(STRENGTHS, key=lambda strength: (_accuracy(margins[strength], searched.targets), -scales[strength][1]))
    machine = _machine(best, options.seed)
    _fit_quietly(machine, training)
    scaler, svc = machine[0], machine[1]
    weight_KD, bias_K = _one_row_per_class(svc.coef_, svc.intercept_)
    scale = scales[best][0]
    told = (
        f"Linear SVM on standardised frozen features, C = {best:g} by {folds}-fold cross-validation; its margins times "
        f"{scale:.3g} are the logits, which gave the best softmax on held-out folds."
    )
    return unscaled(scale * weight_KD, scale * bias_K, scaler, told)


def _machine(strength: float, seed: int) -> Pipeline:
    return make_pipeline(StandardScaler(), LinearSVC(C=strength, random_state=seed, max_iter=MAX_ITERATIONS))


def _some(training: Samples, seed: int) -> Samples:
    pictures, targets = _pictures(training)
    if len(pictures) <= MAX_SEARCHED:
        return training
    chosen = train_test_split(pictures, train_size=MAX_SEARCHED, random_state=seed, stratify=targets)[0]
    rows = np.isin(training.groups, chosen)
    return Samples(training.features[rows], training.targets[rows], training.groups[rows])


def _pictures(training: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give each picture once, whatever the number of its versions, and its class."""
    pictures, first = np.unique(training.groups, return_index=True)
    return pictures, training.targets[first]


def _num_pictures(training: Samples) -> NDArray[np.int64]:
    """Count the pictures of each class."""
    return np.bincount(_pictures(training)[1])


def _softened(training: Samples, num_classes: int) -> NDArray[np.float64]:
    """Give each sample's target probabilities (N, K): of n pictures of a class, (n + 1) / (n + 2) are sure of it."""
    doubts_K = 1 / (_num_pictures(training) + 2)
    targets_KK = np.diag(1 - doubts_K) + (1 - np.eye(num_classes)) * doubts_K[:, None] / (num_classes - 1)
    return np.asarray(targets_KK[training.targets])


def _held_out_margins(
    training: Samples, strength: float, num_classes: int, folds: int, seed: int
) -> NDArray[np.float64]:
    # All versions of a picture stay on one side, or the machine would be asked about what it was fitted to.
    pictures, targets = _pictures(training)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = [
        tuple(np.flatnonzero(np.isin(training.groups, pictures[side])) for side in sides)
        for sides in splitter.split(pictures, targets)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        margins: NDArray[np.float64] = cross_val_predict(
            _machine(strength, seed),
            training.features,
            training.targets,
            cv=parts,
            method="decision_function",
        )
    return _both_sides(margins) if num_classes == 2 else margins


def _fit_quietly(machine: Pipeline, training: Samples) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        machine.fit(training.features, training.targets)


def _both_sides(margins_N: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([-margins_N / 2, margins_N / 2], axis=1)


def _one_row_per_class(
    coefficients: NDArray[np.float64], intercepts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(coefficients) > 1:
        return coefficients, intercepts
    return np.concatenate([-coefficients, coefficients]) / 2, np.concatenate([-intercepts, intercepts]) / 2


def _scale(margins_NK: NDArray[np.float64], wanted_NK: NDArray[np.float64]) -> tuple[float, float]:
    """Give the factor with the lowest cross-entropy, and that entropy."""

    def cross_entropy(log_factor: float) -> float:
        told_NK = log_softmax(np.exp(log_factor) * margins_NK, axis=1)
        return -float((wanted_NK * told_NK).sum(axis=1).mean())

    found = minimize_scalar(cross_entropy, bounds=(np.log(1e-3), np.log(1e3)), method="bounded")
    return float(np.exp(found.x)), float(found.fun)


def _accuracy(margins_NK: NDArray[np.float64], targets_N: NDArray[np.int64]) -> float:
    return float((margins_NK.argmax(axis=1) == targets_N).mean())
