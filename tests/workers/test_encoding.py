"""Pictures as files keep their values, and there is one place that writes them."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import workers
from workers.encoding import jpeg, png

RANDOM = np.random.default_rng(0)
PICTURES = {
    "grey": RANDOM.integers(0, 256, (5, 7), dtype=np.uint8),
    "colours": RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8),
    "numbers": RANDOM.integers(0, 2**16, (5, 7), dtype=np.uint16),
}


@pytest.mark.parametrize("compress_level", [1, 9])
@pytest.mark.parametrize("name", PICTURES)
def test_a_png_holds_every_value(name: str, compress_level: int) -> None:
    values = PICTURES[name]
    for picture in (values, Image.fromarray(values)):
        read = Image.open(io.BytesIO(png(picture, compress_level=compress_level)))
        assert read.format == "PNG"
        assert np.array_equal(np.asarray(read), values)


def test_a_jpeg_of_less_quality_is_smaller() -> None:
    picture: Any = np.kron(PICTURES["colours"], np.ones((16, 16, 1), np.uint8))
    assert Image.open(io.BytesIO(jpeg(picture, quality=90))).size == (112, 80)
    assert len(jpeg(picture, quality=30)) < len(jpeg(picture, quality=90))


SAMPLES = {"scaled_decode.py", "cuda_decode.py"}
"""They write JPEGs to measure how they are decoded; none leaves the worker."""


def test_nothing_else_in_a_worker_writes_pictures() -> None:
    (folder,) = workers.__path__
    writing = re.compile(r'"PNG"|"JPEG"|imencode|IMWRITE')
    found = [path.name for path in Path(folder).glob("*.py") if writing.search(path.read_text(encoding="utf-8"))]
    assert set(found) - SAMPLES == {"encoding.py"}
