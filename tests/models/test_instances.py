"""Instances against scikit-image and pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco
from skimage import measure

from models import instances
from models.instances import areas, coco_rle, separate

BORDER = 2


def discs(size_hw, centres, radius, ring):
    """Label map of discs with rings of border."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    classes = np.zeros(size_hw, dtype=np.uint8)
    owner = np.zeros(size_hw, dtype=int)
    for number, (cx, cy) in enumerate(centres, start=1):
        away = np.hypot(x - cx, y - cy)
        classes[(away <= radius) & (owner == 0)] = BORDER
        classes[away <= radius - ring] = 1
        owner[(away <= radius) & (owner == 0)] = number
    return classes, owner


def test_touching_cells_are_told_apart_and_keep_their_borders():
    classes, owner = discs((60, 90), [(20, 30), (39, 30), (70, 25)], radius=10, ring=3)
    numbers, found = separate(classes, border=BORDER)
    assert len(found) == 3
    for number in range(1, 4):
        values, counts = np.unique(numbers[owner == number], return_counts=True)
        assert values[counts.argmax()] > 0
        assert counts.max() / counts.sum() > 0.97
    assert ((numbers > 0) == (classes > 0)).all()
    assert measure.label(classes > 0).max() == 2


def random_classes(seed, size_hw=(83, 71), num_classes=4):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, num_classes, size=(size_hw[0] // 6 + 1, size_hw[1] // 6 + 1))
    return np.kron(coarse, np.ones((6, 6), dtype=int))[: size_hw[0], : size_hw[1]].astype(np.uint8)


@pytest.mark.parametrize("band_rows", [7, 40, 512])
@pytest.mark.parametrize("seed", [0, 1])
def test_objects_and_their_measures_are_those_of_scikit_image(seed, band_rows, monkeypatch):
    monkeypatch.setattr(instances, "BAND_ROWS", band_rows)
    classes = random_classes(seed)
    scores = np.random.default_rng(seed).random(classes.shape)
    numbers, found = separate(classes, scores_HW=scores)
    expected = measure.label(classes, background=0, connectivity=1)
    assert len(found) == expected.max()
    assert len(np.unique(np.stack([numbers, expected]).reshape(2, -1), axis=1).T) == len(found) + 1
    assert [one.area_px for one in found] == sorted((one.area_px for one in found), reverse=True)
    regions = {region.label: region for region in measure.regionprops(numbers, intensity_image=scores)}
    for one in found:
        region = regions[one.number]
        assert one.area_px == region.area
        assert one.class_id == classes[tuple(region.coords[0])]
        top, left, bottom, right = region.bbox
        assert one.box_xyxy == (left, top, right, bottom)
        assert one.centroid_xy == pytest.approx((region.centroid[1] + 0.5, region.centroid[0] + 0.5))
        assert one.score == pytest.approx(region.intensity_mean)


@pytest.mark.parametrize("band_rows", [40, 64])
def test_bands_do_not_change_which_object_gets_a_border_pixel(band_rows, monkeypatch):
    classes, _ = discs((200, 60), [(20, 35 + 19 * row) for row in range(8)], radius=10, ring=4)
    at_once, _ = separate(classes, border=BORDER)
    monkeypatch.setattr(instances, "BAND_ROWS", band_rows)
    in_bands, _ = separate(classes, border=BORDER)
    assert (at_once == in_bands).all()


def test_border_far_from_any_object_belongs_to_none():
    classes = np.zeros((10, 200), dtype=np.uint8)
    classes[:, :5] = 1
    classes[:, 5:100] = BORDER
    numbers, found = separate(classes, border=BORDER)
    assert [one.area_px for one in found] == [10 * (5 + instances.REACH_PX)]
    assert not numbers[:, 5 + instances.REACH_PX :].any()


def test_border_alone_and_background_alone_hold_no_objects():
    for value in (0, BORDER):
        numbers, found = separate(np.full((9, 9), value, dtype=np.uint8), border=BORDER)
        assert found == []
        assert not numbers.any()


def test_small_objects_are_left_out_and_the_rest_numbered_anew():
    classes = np.zeros((20, 20), dtype=np.uint8)
    classes[1:3, 1:3] = 1
    classes[5:15, 5:15] = 1
    classes[17:19, 2:9] = 3
    numbers, found = separate(classes, min_area_px=5)
    assert [(one.number, one.class_id, one.area_px) for one in found] == [(1, 1, 100), (2, 3, 14)]
    assert np.bincount(numbers.ravel()).tolist() == [400 - 114, 100, 14]


def test_scores_of_eight_bits_count_as_255ths():
    classes = np.ones((4, 4), dtype=np.uint8)
    assert separate(classes, scores_HW=np.full((4, 4), 51, dtype=np.uint8))[1][0].score == pytest.approx(0.2)


SHAPES = {
    "everything": np.ones((5, 4), dtype=int),
    "full_columns": np.pad(np.ones((5, 2), dtype=int), ((0, 0), (1, 3))),
    "hole": np.pad(np.pad(np.zeros((2, 2), dtype=int), 2, constant_values=1), 1),
    "last_pixel": np.array([[0, 0], [0, 1]]),
    "first_pixel": np.array([[1, 0], [0, 0]]),
    "bottom_to_top": np.array([[0, 1, 0], [0, 1, 0], [1, 1, 0]]),
    "u": np.array([[1, 0, 1], [1, 0, 1], [1, 1, 1]]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_runs_equal_those_of_pycocotools(name):
    numbers, found = separate(SHAPES[name].astype(np.uint8))
    assert len(found) == 1
    size_hw, counts = coco_rle(numbers, found[0])
    expected = coco.encode(np.asfortranarray(SHAPES[name].astype(np.uint8)))
    assert {"size": list(size_hw), "counts": counts.encode()} == expected


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("seed", range(3))
def test_runs_of_many_objects_decode_to_their_pixels(seed):
    numbers, found = separate(random_classes(seed))
    for one in found:
        size_hw, counts = coco_rle(numbers, one)
        assert (coco.decode({"size": list(size_hw), "counts": counts}) == (numbers == one.number)).all()


def test_areas_count_every_pixel_once(monkeypatch):
    monkeypatch.setattr(instances, "BAND_ROWS", 10)
    classes = random_classes(5)
    assert areas(classes, 6).tolist() == np.bincount(classes.ravel(), minlength=6).tolist()
