"""Synthetic microscopy: what a scene promises."""

import cv2
import numpy as np
import pytest

from models.recipes import cells, cells_looks
from models.recipes.cells import BACKGROUND, BORDER, BORDER_PX, INTERIOR

SEEDS = range(500_000, 500_006)


@pytest.fixture(scope="module")
def scenes():
    return [cells.scene(seed, size_wh=(200, 160)) for seed in SEEDS]


def test_the_same_seed_gives_the_same_scene_and_others_others(scenes):
    again = cells.scene(SEEDS[0], size_wh=(200, 160))
    assert (again.image == scenes[0].image).all()
    assert (again.cells == scenes[0].cells).all()
    held_out = cells.scene(SEEDS[0], size_wh=(200, 160), held_out=True)
    assert (held_out.image != scenes[0].image).any()
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_scenes_have_their_size_and_cells_numbered_without_gaps(scenes):
    for scene in scenes:
        assert scene.image.shape == scene.cells.shape == scene.classes.shape == (160, 200)
        assert scene.image.dtype == np.uint8
        numbers = np.unique(scene.cells)
        assert numbers.tolist() == list(range(len(numbers)))
        assert scene.count() == numbers.max() > 0
        assert scene.count(min_area_px=10**6) == 0
        assert scene.image.std() > 5


def test_some_cells_touch_and_their_border_keeps_their_interiors_apart(scenes):
    touching = 0
    for scene in scenes:
        kernel = np.ones((3, 3), np.uint8)
        count, parts = cv2.connectedComponents((scene.classes == INTERIOR).astype(np.uint8), connectivity=8)
        for part in range(1, count):
            assert len(np.unique(scene.cells[parts == part])) == 1
        lowest = cv2.erode(np.where(scene.cells == 0, 65535, scene.cells).astype(np.uint16), kernel)
        touching += int(((scene.cells > 0) & (lowest < scene.cells)).sum())
    assert touching > 100


def test_cells_inside_the_picture_have_one_interior_each(scenes):
    for scene in scenes:
        edge = set(np.concatenate([scene.cells[0], scene.cells[-1], scene.cells[:, 0], scene.cells[:, -1]]).tolist())
        for number in set(range(1, scene.count() + 1)) - edge:
            inside = ((scene.cells == number) & (scene.classes == INTERIOR)).astype(np.uint8)
            assert cv2.connectedComponents(inside, connectivity=4)[0] == 2


def test_the_border_reaches_three_pixels_into_a_cell_but_not_along_the_pictures_edge():
    labels = np.zeros((40, 60), dtype=np.uint16)
    labels[10:30, :25] = 1
    labels[10:30, 25:45] = 2
    classes = cells.classes_of(labels)
    row = classes[20].tolist()
    assert BORDER_PX == 3
    assert row[:22] == [INTERIOR] * 22
    assert row[22:28] == [BORDER] * 2 * BORDER_PX
    assert row[28:42] == [INTERIOR] * 14
    assert row[42:45] == [BORDER] * BORDER_PX
    assert row[45:] == [BACKGROUND] * 15


def test_a_picture_that_one_cell_fills_is_all_interior():
    assert (cells.classes_of(np.ones((9, 9), dtype=np.uint16)) == INTERIOR).all()


def test_no_texture_serves_both_training_and_measuring():
    def names(textures):
        return {
            (texture.__qualname__, *(cell.cell_contents for cell in texture.__closure__ or ())) for texture in textures
        }

    trained, held_out = names(cells_looks.TRAINING_TEXTURES), names(cells_looks.HELD_OUT_TEXTURES)
    assert not trained & held_out
    assert len(trained) == len(cells_looks.TRAINING_TEXTURES)
    assert len(held_out) == len(cells_looks.HELD_OUT_TEXTURES)


@pytest.mark.parametrize("texture", [*cells_looks.TRAINING_TEXTURES, *cells_looks.HELD_OUT_TEXTURES])
def test_textures_have_mean_zero_and_deviation_of_at_most_one(texture):
    values = texture(np.random.default_rng(1), (150, 220))
    assert values.shape == (150, 220)
    assert abs(float(values.mean())) < 0.25
    assert float(values.std()) < 1.2
    assert np.isfinite(values).all()
