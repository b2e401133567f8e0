import ctypes
import io
import random

import pytest
from PIL import Image

from models import quiet
from models.errors import InvalidImage
from models.images import decode


def damaged_fax(strips):
    """A TIFF of so many strips, of which each is damaged."""
    stream, chance = io.BytesIO(), random.Random(1)
    Image.effect_noise((64, 16 * strips), 60).convert("1").save(
        stream, "TIFF", compression="group4", tiffinfo={278: 16}
    )
    data = bytearray(stream.getvalue())
    tags = Image.open(io.BytesIO(bytes(data))).tag_v2
    for start, size in zip(tags[273], tags[279], strict=True):
        data[start + size // 4 : start + size] = chance.randbytes(size - size // 4)
    return bytes(data)


def test_a_picture_of_many_damaged_strips_leaves_no_line_in_the_log(capfd):
    assert quiet.silence_libtiff()
    with pytest.raises(InvalidImage):
        decode(damaged_fax(50), max_bytes=10**6, max_pixels=10**6)
    assert capfd.readouterr().err == ""


def test_where_the_library_cannot_be_found_nothing_breaks(monkeypatch):
    def unknown(path):
        raise OSError(path)

    monkeypatch.setattr(ctypes, "CDLL", unknown)
    assert not quiet.silence_libtiff.__wrapped__()
