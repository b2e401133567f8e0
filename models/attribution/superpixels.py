"""Superpixels: the pieces of an input that LIME and KernelSHAP switch on and off.

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.attribution.question import Algorithm
from models.errors import UnsupportedOption

TRIES = 5
"""How often an algorithm that is not told the number of pieces is run to come near it."""


def levels(x_1CHW: Tensor, low_C: Tensor, high_C: Tensor) -> NDArray[np.float64]:
    """Undo the normalisation of an input: float64 (H, W, 3) in [0, 1]; grey is repeated."""
    low, high = (value.double().cpu().view(-1, 1, 1) for value in (low_C, high_C))
    picture_HWC = ((x_1CHW[0].double().cpu() - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy()
    colours: NDArray[np.float64] = picture_HWC if picture_HWC.shape[2] == 3 else picture_HWC[..., :1].repeat(3, 2)
    return np.ascontiguousarray(colours)


def cut(picture_HW3: NDArray[np.float64], algorithm: Algorithm, *, count: int, compactness: float) -> NDArray[np.int64]:
    """Cut a picture into superpixels.

    Args:
        picture_HW3: RGB in [0, 1].
        algorithm: ``grid``, or one of scikit-image.
        count: About how many; the algorithms come near it as far as the picture lets them.
        compactness: SLIC's.

    Returns:
        int64 (H, W), numbered from 0 without gaps.

    Raises:
        UnsupportedOption: It is one piece, whose parts cannot be told apart.
    """
    count = min(count, picture_HW3.shape[0] * picture_HW3.shape[1])
    found = _cut(picture_HW3, algorithm, count, compactness)
    numbers, segments = np.unique(found, return_inverse=True)
    if len(numbers) < 2:
        raise UnsupportedOption(
            f"Expected at least two superpixels, {algorithm} sees one piece in this picture. Use the algorithm 'grid'."
        )
    return segments.reshape(found.shape).astype(np.int64)


def _cut(picture_HW3: NDArray[np.float64], algorithm: Algorithm, count: int, compactness: float) -> NDArray[Any]:
    from skimage import segmentation

    pixels = picture_HW3.shape[0] * picture_HW3.shape[1]
    side = math.sqrt(pixels / count)
    if algorithm == "grid":
        return _grid(picture_HW3.shape[0], picture_HW3.shape[1], count)

    def run(size: float) -> NDArray[Any]:
        found: NDArray[Any]
        if algorithm == "slic":
            wanted = max(1, round(pixels / size**2))
            found = segmentation.slic(
                picture_HW3, n_segments=wanted, compactness=compactness, start_label=0, channel_axis=-1
            )
        elif algorithm == "felzenszwalb":
            least = max(1, round(side * side / 8))
            found = segmentation.felzenszwalb(picture_HW3, scale=size**2, sigma=0.5, min_size=least, channel_axis=-1)
        else:
            # Its time grows with the square of the kernel's size.
            kernel = min(max(1.0, side / 6), 3.0)
            found = segmentation.quickshift(  # type: ignore[no-untyped-call]
                picture_HW3, kernel_size=kernel, max_dist=size, ratio=0.5, rng=0, channel_axis=-1
            )
        return found

    return _nearest(run, count, start=side)


def _grid(height: int, width: int, count: int) -> NDArray[np.int64]:
    rows = min(height, max(1, round(math.sqrt(count * height / width))))
    columns = min(width, max(1, round(count / rows)))
    return (np.arange(height) * rows // height)[:, None] * columns + (np.arange(width) * columns // width)[None, :]


def _nearest(run: Callable[[float], NDArray[Any]], count: int, *, start: float) -> NDArray[Any]:
    """Search the size, of which more means fewer pieces, that comes nearest to a number of pieces."""
    best: NDArray[Any] | None = None
    best_gap, low, high, value = math.inf, 0.0, math.inf, start
    for _ in range(TRIES):
        found = run(value)
        pieces = len(np.unique(found))
        gap = abs(math.log(pieces / count))
        if gap < best_gap:
            best, best_gap = found, gap
        if gap < 0.2:
            break
        low, high = (value, high) if pieces > count else (low, value)
        value = 2 * value if high == math.inf else (low + high) / 2 if low else high / 2
    assert best is not None
    return best
