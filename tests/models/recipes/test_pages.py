from itertools import combinations

import numpy as np
import pytest

from models.recipes import backgrounds, digits, pages

LUMA = np.array([0.299, 0.587, 0.114])


@pytest.fixture(scope="module")
def measured():
    return pages.held_out_pages()


def test_held_out_pages_share_neither_digits_nor_backgrounds_nor_seed_with_those_of_training():
    held_out, training, validation = pages.held_out(), pages.training(), pages.validation()
    assert set(held_out.digits) == set(digits.test_split())
    for source in (training, validation):
        assert not set(source.digits) & set(held_out.digits)
        assert not set(source.backgrounds) & set(held_out.backgrounds)
    assert len({held_out.seed, training.seed, validation.seed}) == 3


def test_a_page_comes_from_its_number_alone_whatever_was_drawn_before():
    source = pages.training()
    in_order = list(source.pages(0, 4))
    alone = source.page(3)
    assert np.array_equal(in_order[3].pixels, alone.pixels)
    assert np.array_equal(in_order[3].boxes_xyxy, alone.boxes_xyxy)
    assert not np.array_equal(in_order[2].pixels, alone.pixels)
    assert not np.array_equal(pages.validation().page(3).pixels, alone.pixels)


def test_the_pages_measured_on_are_as_many_and_as_full_as_promised(measured):
    assert len(measured) >= 300
    assert {len(page.labels) for page in measured} == set(range(3, 13))
    boxes = np.concatenate([page.boxes_xyxy for page in measured])
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert longer.min() == 24
    assert longer.max() == 80
    assert boxes.min() >= 0
    assert boxes.max() <= 320
    counts = np.bincount(np.concatenate([page.labels for page in measured]), minlength=10)
    assert counts.min() >= 200


def test_digits_hardly_cover_one_another(measured):
    for page in measured[:100]:
        areas = (page.boxes_xyxy[:, 2:] - page.boxes_xyxy[:, :2]).prod(axis=1)
        for one, other in combinations(range(len(page.labels)), 2):
            low = np.maximum(page.boxes_xyxy[one, :2], page.boxes_xyxy[other, :2])
            high = np.minimum(page.boxes_xyxy[one, 2:], page.boxes_xyxy[other, 2:])
            assert np.clip(high - low, 0, None).prod() <= 0.05 * min(areas[one], areas[other])


def _is_alone(box, others):
    reach = 2 * pages._MARGIN
    return all(
        box[2] + reach < o[0] or o[2] + reach < box[0] or box[3] + reach < o[1] or o[3] + reach < box[1] for o in others
    )


def test_boxes_are_tight_around_the_ink_to_a_pixel(monkeypatch):
    grey = np.full((pages.SIZE_PX, pages.SIZE_PX, 3), 128, np.uint8)
    monkeypatch.setattr(backgrounds, "draw", lambda *_: grey.copy())
    monkeypatch.setattr(pages, "MAX_NOISE", 0.0)
    checked = 0
    for page in pages.held_out().pages(0, 40):
        strength = np.abs((page.pixels.astype(float) - grey) @ LUMA)
        for index, box in enumerate(page.boxes_xyxy.astype(int)):
            if not _is_alone(box, np.delete(page.boxes_xyxy, index, axis=0)):
                continue
            left, top = box[:2] - pages._MARGIN
            around = strength[top : box[3] + pages._MARGIN, left : box[2] + pages._MARGIN]
            rows, columns = np.nonzero(around >= pages.INK * around.max())
            found = [columns.min() + left, rows.min() + top, columns.max() + 1 + left, rows.max() + 1 + top]
            np.testing.assert_allclose(found, box, atol=1)
            checked += 1
    assert checked > 100


def test_examples_are_held_out_pages_that_are_not_measured_on(measured):
    shown = pages.examples()
    assert len(shown) == pages.NUM_EXAMPLES
    known = {page.pixels.tobytes() for page in measured}
    assert all(page.pixels.tobytes() not in known for page in shown)
    assert np.array_equal(pages.examples(2)[1].pixels, shown[1].pixels)


def test_parity_pages_copy_no_photograph(monkeypatch):
    drawn = []
    draw = backgrounds.draw
    monkeypatch.setattr(backgrounds, "draw", lambda kind, *more: drawn.append(kind) or draw(kind, *more))
    assert len(pages.parity()) == pages.NUM_PARITY
    assert set(drawn) <= {*backgrounds.HELD_OUT_PATTERNS, *backgrounds.TRAINING_PATTERNS}
