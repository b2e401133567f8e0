"""Nine-patch sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from visionpipe.features.sheets import CELL_PX, WELL, Block, nine_patches


def coloured(index: int, hue: int) -> Image.Image:
    return Image.new("RGB", (12, 12), (hue, index * 15, 10))


@pytest.mark.parametrize("top", [4, 9, 16])
def test_every_picture_stands_in_its_place(top: int) -> None:
    blocks = [
        Block(f"channel {unit}", "1 to 2", [(coloured(index, 200), coloured(index, 100)) for index in range(top)])
        for unit in range(3)
    ]
    pixels = np.asarray(nine_patches(blocks, title="features.conv4_2", top=top)).astype(int)
    for hue in (100, 200):
        for index in range(top):
            found = (pixels == (hue, index * 15, 10)).all(axis=2)
            # Whole factors keep the pixels of small pictures square.
            assert found.sum() == 3 * (CELL_PX // 12 * 12) ** 2
    patterns, patches = ((pixels[..., 0] == hue) & (pixels[..., 2] == 10) for hue in (200, 100))
    assert np.nonzero(patterns)[1].min() < np.nonzero(patches)[1].min()


def test_missing_pictures_leave_their_place_empty() -> None:
    block = Block("channel 0", "", [(coloured(0, 200), None)])
    pixels = np.asarray(nine_patches([block], title="a", top=9))
    assert (pixels == WELL).all(axis=2).sum() >= 16 * CELL_PX**2


def test_long_names_stay_inside() -> None:
    block = Block("channel 0", "x" * 500, [])
    made = nine_patches([block], title="features." * 60, subtitle="y" * 500)
    edge = np.asarray(made)[:, -8:]
    assert (edge == edge[0, 0]).all()
