import io

import pytest
from PIL import Image

from models.jpeg import common_size_wh
from models.parity import synthetic

PICTURE = synthetic(0).resize((90, 60))


def encode(picture=PICTURE, **options):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def spliced(data, segment):
    """Put a segment right behind the first marker."""
    return data[:2] + segment + data[2:]


@pytest.mark.parametrize(
    "data",
    [
        encode(),
        encode(subsampling=0),
        encode(subsampling=1),
        encode(subsampling=2),
        encode(quality=30, dpi=(72, 72)),
        encode(exif=exif(1)),
        encode(icc_profile=b"x" * 70_000),
        encode(comment=b"\xff\xda not a scan"),
        encode(optimize=True),
        encode(restart_marker_blocks=4),
    ],
    ids=["default", "444", "422", "420", "quality", "upright", "two_app2", "comment", "optimised", "restarts"],
)
def test_common_files_tell_their_size(data):
    assert common_size_wh(data) == (90, 60)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff",
        encode()[:-2],
        encode()[:200],
        encode() + b"trailing",
        encode(progressive=True),
        encode(PICTURE.convert("L")),
        encode(PICTURE.convert("CMYK")),
        *(encode(exif=exif(orientation)) for orientation in range(2, 9)),
        encode(keep_rgb=True),
        spliced(encode(), b"\xff\xe2\x00\x08MPF\0ab"),
        spliced(encode(), b"\xff\xe1\x00\x01"),
        spliced(encode(), b"\xff\xe1\xff\xff"),
        encode().replace(b"\xff\xc0", b"\xff\xc9"),
        encode().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        b"\x89PNG\r\n\x1a\n" + b"\xff\xd9",
    ],
)
def test_every_other_file_is_left_to_others(data):
    assert common_size_wh(data) is None


def test_a_damaged_header_raises_nothing():
    whole = encode()
    for at in range(2, 160):
        for value in (0, 0xFF, 0xC0, 0xDA):
            common_size_wh(whole[:at] + bytes([value]) + whole[at + 1 :])
