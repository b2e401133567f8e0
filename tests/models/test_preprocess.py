import io
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference
from torchvision.transforms._presets import ImageClassification

from models import preprocess
from models.cards import Preprocessing
from models.errors import ImageTooLarge
from models.images import Preprocess, decode

SIZES = [(640, 480), (480, 640), (300, 300), (256, 256), (224, 224), (225, 301), (1, 1), (7, 900), (900, 7), (97, 61)]


def noise(size_wh, mode="RGB"):
    random = np.random.default_rng(size_wh[0])
    shape = (size_wh[1], size_wh[0]) + ((3,) if mode == "RGB" else ())
    return Image.fromarray(random.integers(0, 256, size=shape, dtype=np.uint8))


@pytest.mark.parametrize("size_wh", SIZES, ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (384, 384), (48, 64)])
def test_inputs_equal_those_of_torchvisions_preset_bit_by_bit(size_wh, interpolation, resize, crop):
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, interpolation=InterpolationMode(interpolation), antialias=True
    )
    ours = Preprocess(Preprocessing(resize=resize, crop=crop, interpolation=interpolation))
    image = noise(size_wh)
    prepared = ours(image)
    assert prepared.dtype is torch.float32
    assert prepared.shape == (3, crop, crop)
    assert torch.equal(prepared, preset(image))


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
def test_the_other_interpolations_are_pillows(interpolation):
    ours = Preprocess(Preprocessing(resize=(20, 30), interpolation=interpolation))
    resized = noise((64, 48)).resize((30, 20), Image.Resampling[interpolation.upper()])
    assert torch.equal(ours.levels(noise((64, 48))), reference.pil_to_tensor(resized))


def test_a_grey_network_gets_one_channel_of_luminance():
    ours = Preprocess(Preprocessing(mode="L", resize=(8, 8), mean=[0.25], std=[0.5]))
    image = noise((8, 8))
    expected = (reference.pil_to_tensor(image.convert("L")) / 255 - 0.25) / 0.5
    assert torch.equal(ours(image), expected)


def test_a_colour_network_gets_a_grey_picture_three_times():
    ours = Preprocess(Preprocessing(resize=16, crop=16, mean=[0.0] * 3, std=[1.0] * 3))
    channels = ours(noise((16, 16), "L"))
    assert torch.equal(channels[0], channels[1])
    assert torch.equal(channels[0], channels[2])


def test_without_resize_and_crop_the_size_stays():
    assert Preprocess(Preprocessing())(noise((31, 17))).shape == (3, 17, 31)


@pytest.mark.parametrize("size_wh", [(3000, 20), (20, 3000), (5000, 3)], ids=str)
def test_a_thin_picture_is_resized_only_where_the_crop_lies(size_wh, monkeypatch):
    ours = Preprocess(Preprocessing(resize=256, crop=224))
    whole = ours.levels(noise(size_wh))
    monkeypatch.setattr(preprocess, "MAX_RESIZED_PIXELS", 200_000)
    difference = (ours.levels(noise(size_wh)).int() - whole.int()).abs()
    assert difference.max() <= 1


def test_absurd_shapes_need_no_absurd_memory():
    ours = Preprocess(Preprocessing(resize=256, crop=224))
    for size_wh in ((20_000, 10), (10, 20_000), (1_000_000, 1), (1, 60_000)):
        assert ours(Image.new("RGB", size_wh, (9, 99, 199))).shape == (3, 224, 224)


def test_a_thin_picture_without_a_crop_is_refused():
    with pytest.raises(ImageTooLarge, match="after resizing"):
        Preprocess(Preprocessing(resize=256))(Image.new("RGB", (100_000, 1)))


def test_small_pictures_cost_little(encode):
    data = encode(noise((8, 8), "L"))
    ours = Preprocess(Preprocessing(mode="L", resize=(32, 32), mean=[0.3], std=[0.3]))

    def by_hand() -> np.ndarray:
        pixels = Image.open(io.BytesIO(data)).convert("L").resize((32, 32), Image.Resampling.BILINEAR)
        return (np.asarray(pixels, dtype=np.float32)[None] / 255 - 0.3) / 0.3

    def cost_s(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    pairs = [
        (cost_s(by_hand), cost_s(lambda: ours(decode(data, max_bytes=10**6, max_pixels=10**6).image)))
        for _ in range(300)
    ]
    by_hand_s, ours_s = (sorted(costs)[30] for costs in zip(*pairs, strict=True))
    assert ours_s < 3 * by_hand_s
