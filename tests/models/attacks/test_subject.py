"""The stored file, decoded and preprocessed again, is the attacked input, bit by bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from models.attacks import Subject
from models.attacks import subject as module
from models.cards import Preprocessing
from models.catalog import Catalog
from models.images import decode
from models.preprocess import Preprocess

SIZES = [(640, 480), (257, 256), (256, 257), (224, 224), (1, 1), (3, 200), (200, 3), (97, 61)]
TABLES = {
    "grey, stretched": Preprocessing(mode="L", resize=(32, 32), mean=[0.3], std=[0.3]),
    "stretched to an oblong": Preprocessing(resize=(40, 70)),
    "size of the picture": Preprocessing(),
    "cropped alone": Preprocessing(crop=64),
    "crop larger than the edge": Preprocessing(resize=48, crop=(80, 61), interpolation="bicubic"),
    "grey, oblong crop": Preprocessing(mode="L", resize=33, crop=(32, 17), interpolation="lanczos", mean=[0], std=[1]),
    "edge alone": Preprocessing(resize=50, interpolation="nearest"),
}


def noise(size_wh, mode="RGB"):
    random = np.random.default_rng(size_wh[0])
    shape = (size_wh[1], size_wh[0]) + ((3,) if mode == "RGB" else ())
    return Image.fromarray(random.integers(0, 256, size=shape, dtype=np.uint8))


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def check(image, how):
    """Store a picture, every free value of whose input was changed at random."""
    ours, subject = Preprocess(how), Subject.of(image, how)
    assert torch.equal(subject.levels, ours.levels(image))
    fresh = torch.randint(0, 256, subject.levels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    attacked = torch.where(subject.free, fresh, subject.levels)
    for levels in (subject.levels, attacked):
        stored = decode(png(subject.altered(levels)), max_bytes=2**26, max_pixels=2**26).image
        assert stored.mode == "RGB"
        assert stored.size == subject.picture.size
        assert torch.equal(ours(stored), ours.normalise(levels))
    return subject, attacked


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size_wh", SIZES, ids=str)
@pytest.mark.parametrize("how", TABLES.values(), ids=TABLES)
def test_every_kind_of_preprocessing_gives_back_what_was_attacked(how, size_wh, mode):
    check(noise(size_wh, mode), how)


@pytest.mark.parametrize("size_wh", [(300, 200), (97, 61), (2, 301)], ids=str)
@pytest.mark.parametrize(
    "model",
    ["lenet-digits", "resnet18", "resnet50", "inception_v3", "efficientnet_b0", "vit_b_16", "vit_h_14", "swin_v2_t"],
)
def test_cards_give_back_what_was_attacked(model, size_wh):
    check(noise(size_wh), Catalog(None).find(model).card.preprocess)


@pytest.mark.parametrize("size_wh", [(4, 30_000), (30_000, 4), (9_000, 500)], ids=str)
@pytest.mark.parametrize("how", [Preprocessing(resize=256, crop=224), Preprocessing(crop=300)], ids=str)
def test_of_a_very_large_picture_only_what_surrounds_the_crop_is_stored(monkeypatch, size_wh, how):
    monkeypatch.setattr(module, "MAX_STORED_PIXELS", 10**5)
    subject, _ = check(noise(size_wh), how)
    assert max(subject.picture.size) <= 300


def test_the_picture_is_the_resized_original_around_the_crop():
    image, how = noise((90, 60)), Preprocessing(resize=30, crop=20)
    subject, attacked = check(image, how)
    resized = image.resize((45, 30), Image.Resampling.BILINEAR)
    assert subject.picture.tobytes() == resized.tobytes()
    assert subject.box == (12, 5, 32, 25)
    altered = np.asarray(subject.altered(attacked)).copy()
    altered[5:25, 12:32] = np.asarray(resized)[5:25, 12:32]
    assert altered.tobytes() == resized.tobytes()


def test_padding_is_not_free():
    subject = Subject.of(noise((10, 20)), Preprocessing(crop=16))
    assert subject.free.sum() == 10 * 16
    assert bool((subject.levels[:, ~subject.free] == 0).all())


def test_changes_are_measured_on_the_file_over_the_cards_channels():
    grey = Subject.of(noise((4, 4)), Preprocessing(mode="L", mean=[0], std=[1]))
    levels = grey.levels.clone()
    levels[0, 0, :2] = (levels[0, 0, :2].int() + torch.tensor([6, -8])).clamp(0, 255).to(torch.uint8)
    moved = (levels.int() - grey.levels.int()).numpy()
    change = grey.change(grey.altered(levels))
    assert change.linf == np.abs(moved).max() / 255
    assert change.l2 == pytest.approx(np.sqrt((moved**2).sum()) / 255)
    assert change.changed == 2 / 16
    assert grey.change(grey.picture.convert("RGB")) == (0, 0, 0)


def test_the_difference_is_amplified_around_mid_grey():
    subject = Subject.of(Image.new("RGB", (6, 4), (100, 100, 100)), Preprocessing(crop=4))
    levels = subject.levels.clone()
    levels[0, 0, 0], levels[1, 0, 0], levels[2, 0, 0] = 103, 95, 120
    drawn = np.asarray(subject.difference(levels, 10))
    assert drawn.shape == (4, 6, 3)
    assert drawn[0, 1].tolist() == [158, 78, 255]
    drawn = drawn.copy()
    drawn[0, 1] = 128
    assert bool((drawn == 128).all())
