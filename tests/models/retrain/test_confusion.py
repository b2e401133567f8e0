import numpy as np
import pytest
from PIL import Image

from models.retrain.confusion import draw_confusion


@pytest.mark.parametrize("num_classes", [2, 30, 100])
def test_the_true_class_is_the_row_and_its_share_the_shade(num_classes, tmp_path):
    counts = np.diag(np.full(num_classes, 10))
    counts[0, 1] = 10
    path = tmp_path / "confusion.png"
    draw_confusion(counts, [f"class {index}" for index in range(num_classes)], "a title", path)
    with Image.open(path) as image:
        levels = np.asarray(image.convert("L")).astype(int)
        assert image.format == "PNG"
    assert 400 <= levels.shape[0] <= 1600
    dark = np.argwhere(levels < 90)
    # Below the diagonal there is nothing but the names' ink.
    assert len(dark) > levels.size / num_classes / 10


def test_a_class_without_pictures_does_no_harm(tmp_path):
    draw_confusion(np.array([[3, 0], [0, 0]]), ["a", "b"], "title", tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
