import ctypes
import io
import random

from PIL import Image

from models import quiet
from models.images import decode


def damaged_fax(rows):
    """A TIFF of so many rows of noise, which libtiff decodes all the same."""
    stream = io.BytesIO()
    Image.new("1", (64, rows)).save(stream, "TIFF", compression="group3")
    data = bytearray(stream.getvalue())
    tags = Image.open(io.BytesIO(bytes(data))).tag_v2
    for start, size in zip(tags[273], tags[279], strict=True):
        data[start : start + size] = random.Random(1).randbytes(size)
    return bytes(data)


def test_a_fax_of_many_damaged_rows_leaves_no_line_in_the_log(capfd):
    assert quiet.silence_libtiff()
    assert decode(damaged_fax(1000), max_bytes=10**6, max_pixels=10**6).size_wh == (64, 1000)
    assert capfd.readouterr().err == ""


def test_where_the_library_cannot_be_found_nothing_breaks(monkeypatch):
    def unknown(path):
        raise OSError(path)

    monkeypatch.setattr(ctypes, "CDLL", unknown)
    assert not quiet.silence_libtiff.__wrapped__()
