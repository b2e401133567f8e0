"""scikit-learn's handwritten digits: 1,797 pictures of 8x8 pixels in 17 grey levels, and how we split them.

The data is the test part of the UCI set "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak),
CC BY 4.0; scikit-learn ships it, we do not.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 1998
"""Seed of both splits."""
TEST_FRACTION = 0.2
"""Part of all digits that is never trained on, nor used to choose anything."""
VALIDATION_FRACTION = 0.15
"""Part of the rest that chooses the number of epochs."""


@cache
def pixels() -> NDArray[np.uint8]:
    """Give all digits as grey pictures, ink bright on black: uint8 of shape (1797, 8, 8), 0 to 255."""
    levels: NDArray[np.float64] = load_digits().images
    return np.rint(levels * (255 / 16)).astype(np.uint8)


@cache
def targets() -> NDArray[np.int64]:
    """Give the true digit of each picture: int64 of shape (1797,)."""
    return np.asarray(load_digits().target, dtype=np.int64)


def test_split() -> NDArray[np.int64]:
    """Give the sorted indices of the held-out digits, stratified by class."""
    return _split(np.arange(len(targets())), TEST_FRACTION)[1]


def validation_split() -> NDArray[np.int64]:
    """Give the sorted indices of the training part's digits that choose the number of epochs."""
    return _split(training_split(), VALIDATION_FRACTION)[1]


def training_split() -> NDArray[np.int64]:
    """Give the sorted indices of all digits that are not held out, validation included."""
    return _split(np.arange(len(targets())), TEST_FRACTION)[0]


def _split(indices: NDArray[np.int64], fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    kept, taken = train_test_split(
        indices, test_size=fraction, random_state=SPLIT_SEED, stratify=targets()[indices], shuffle=True
    )
    return np.sort(kept), np.sort(taken)
