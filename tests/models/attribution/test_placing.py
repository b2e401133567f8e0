"""Maps laid back onto originals of every size, through resizing, cropping and padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.attribution.placing import segments_to_original, to_original
from models.cards import Preprocessing
from models.preprocess import Preprocess

CASES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "kept": ((40, 30), {}),
    "enlarged": ((8, 10), {"resize": (40, 32)}),
    "reduced": ((160, 120), {"resize": (30, 40)}),
    "resized and cropped": ((120, 90), {"resize": 48, "crop": 32}),
    "cropped": ((50, 41), {"crop": (24, 30)}),
    "padded": ((20, 24), {"crop": 32}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mark_lands_where_it_was_in_the_original(case: str) -> None:
    size_wh, how = CASES[case]
    preprocessing = Preprocessing(mode="L", mean=[0.0], std=[1.0], **how)
    width, height = size_wh
    at_xy = (round(width * 0.56), round(height * 0.45))
    original = np.zeros((height, width), np.uint8)
    # As large as a pixel of either grid.
    half = 1 + max(1, round(max(width, height) / 60))
    original[at_xy[1] - half : at_xy[1] + half + 1, at_xy[0] - half : at_xy[0] + half + 1] = 255
    seen = Preprocess(preprocessing)(Image.fromarray(original))[0].numpy()
    back = to_original(seen, size_wh, preprocessing)
    assert back.shape == (height, width)
    assert back.dtype == np.float32
    ys, xs = np.mgrid[:height, :width]
    centre = ((back * xs).sum() / back.sum(), (back * ys).sum() / back.sum())
    assert centre == pytest.approx(at_xy, abs=0.35)
    assert back.max() > 0.5


def test_what_the_crop_left_out_is_zero_and_of_no_segment() -> None:
    preprocessing = Preprocessing(resize=(20, 40), crop=20)
    back = to_original(np.ones((20, 20)), (80, 40), preprocessing)
    assert (back[:, :20] == 0).all()
    assert (back[:, 60:] == 0).all()
    np.testing.assert_allclose(back[:, 20:60], 1, atol=1e-6)
    segments = segments_to_original(np.arange(400).reshape(20, 20), (80, 40), preprocessing)
    assert segments.dtype == np.uint16
    assert (segments[:, :20] == 0).all()
    assert segments[0, 20] == 1
    assert segments[39, 59] == 400
    assert sorted(np.unique(segments[:, 20:60])) == list(range(1, 401))


def test_an_original_smaller_than_the_input_gets_the_mean_of_what_lies_under_a_pixel() -> None:
    seen = np.arange(16.0).reshape(4, 4)
    back = to_original(seen, (2, 2), Preprocessing(resize=(4, 4)))
    np.testing.assert_allclose(back, seen.reshape(2, 2, 2, 2).mean(axis=(1, 3)), atol=1e-6)
