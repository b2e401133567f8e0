import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as reference

from models.cards import Preprocessing
from models.geometry import crop_size_wh, input_xy_to_original_xy, placement, resized_size_wh

CASES = {
    "wide, cropped": ((640, 480), Preprocessing(resize=256, crop=224)),
    "tall, cropped": ((333, 1000), Preprocessing(resize=256, crop=224)),
    "stretched": ((90, 50), Preprocessing(resize=(32, 48))),
    "padded": ((90, 50), Preprocessing(resize=(32, 48), crop=(64, 51))),
    "untouched": ((90, 50), Preprocessing()),
    "cropped alone": ((91, 50), Preprocessing(crop=(20, 40))),
}


@pytest.mark.parametrize(("size_wh", "preprocessing"), CASES.values(), ids=CASES.keys())
def test_a_mark_in_the_input_leads_back_to_the_mark_in_the_picture(size_wh, preprocessing):
    where_xy = np.array([size_wh[0] // 2 + 5, size_wh[1] // 2 - 4])
    marked = np.zeros((size_wh[1], size_wh[0]), dtype=np.float32)
    marked[where_xy[1], where_xy[0]] = 1000
    image = Image.fromarray(marked)
    resized_wh = resized_size_wh(size_wh, preprocessing)
    resized = image.resize(resized_wh, Image.Resampling.BILINEAR)
    crop_wh = crop_size_wh(resized_wh, preprocessing)
    seen = np.asarray(reference.center_crop(resized, [crop_wh[1], crop_wh[0]]))
    y, x = np.mgrid[0 : seen.shape[0], 0 : seen.shape[1]] + 0.5
    centre_xy = np.array([(x * seen).sum(), (y * seen).sum()]) / seen.sum()
    back_xy = input_xy_to_original_xy(centre_xy, size_wh=size_wh, preprocessing=preprocessing)
    np.testing.assert_allclose(back_xy, where_xy + 0.5, atol=0.3)


@pytest.mark.parametrize("size_wh", [(640, 480), (333, 1000), (1, 1), (7, 2000), (255, 256)], ids=str)
def test_sizes_are_torchvisions(size_wh):
    preprocessing = Preprocessing(resize=256, crop=224)
    resized = reference.resize(Image.new("RGB", size_wh), [256])
    assert resized_size_wh(size_wh, preprocessing) == resized.size
    assert crop_size_wh(resized.size, preprocessing) == reference.center_crop(resized, [224]).size


def test_corners_of_a_stretched_input_are_corners_of_the_picture():
    corners = np.array([[0, 0], [48, 32]])
    back = input_xy_to_original_xy(corners, size_wh=(96, 320), preprocessing=Preprocessing(resize=(32, 48)))
    assert back.tolist() == [[0, 0], [96, 320]]


def test_an_odd_surplus_is_cropped_and_padded_on_torchvisions_side():
    crop = [placement((size, 10), Preprocessing(crop=(10, 224))).offset_xy[0] for size in (225, 227, 229, 223, 221)]
    assert crop == [0, 2, 2, 0, -1]
