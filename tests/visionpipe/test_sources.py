"""Whatever callers give as an image becomes a reference or lossless bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visionpipe.errors import ImageNotFoundError, ImageTooLargeError, InvalidImageError, UnsupportedImageError
from visionpipe.media import MediaRoots
from visionpipe.schemas.images import BlobImage, InlineImage, MediaImage, UrlImage
from visionpipe.sources import MAX_INLINE_TOTAL, Prepared, is_single, place, prepare, readable

RNG = np.random.default_rng(0)


def _prepare(source: object, max_bytes: int = 10_000_000) -> Prepared:
    return prepare(source, max_bytes=max_bytes)  # type: ignore[arg-type]


def _pixels(prepared: Prepared) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(prepared.data)))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_an_array_arrives_pixel_by_pixel(shape):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(_pixels(_prepare(array)), array)
    assert np.array_equal(_pixels(_prepare(array[::-1, ::2])), array[::-1, ::2])


def test_a_single_channel_axis_is_dropped():
    array = RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    assert np.array_equal(_pixels(_prepare(array)), array[..., 0])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 7, 3)), np.zeros((5, 7), np.int32), np.zeros((3, 5, 7), np.uint8), np.zeros(5, np.uint8),
        np.zeros((2, 5, 7, 3), np.uint8), np.zeros((0, 7, 3), np.uint8), np.zeros((5, 7), bool),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_an_array_of_another_kind_is_refused_with_what_was_expected(array):
    with pytest.raises(UnsupportedImageError, match="expected an array of uint8"):
        _prepare(array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pil_image_keeps_mode_and_pixels(mode):
    dtype = np.uint16 if mode == "I;16" else np.uint8
    base = Image.fromarray(RNG.integers(0, 256, (6, 5), dtype=dtype))
    image = base if mode == "I;16" else base.convert(mode)
    back = Image.open(io.BytesIO(_prepare(image).data))
    assert back.mode in (mode, "I;16")
    assert np.array_equal(np.asarray(back), np.asarray(image))


def test_a_cmyk_image_travels_as_rgb_and_floats_are_refused():
    assert Image.open(io.BytesIO(_prepare(Image.new("CMYK", (3, 3))).data)).mode == "RGB"
    with pytest.raises(UnsupportedImageError, match="mode F"):
        _prepare(Image.new("F", (3, 3)))


def test_a_pil_image_is_taken_as_its_pixels_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        back = Image.open(io.BytesIO(_prepare(image).data))
    assert back.size == (4, 2)
    assert 0x0112 not in back.getexif()


def test_files_and_bytes_travel_untouched(tmp_path):
    data = b"\xff\xd8not even a jpeg"
    (tmp_path / "x.jpg").write_bytes(data)
    path = tmp_path / "x.jpg"
    for source in (path, str(path)):
        assert _prepare(source) == Prepared(None, data, str(path))
    for source in (data, bytearray(data), memoryview(data)):
        assert _prepare(source) == Prepared(None, data)


def test_urls_and_references_stay_references():
    url = "https://a.example/cat.jpg"
    assert _prepare(url).ref == UrlImage(url=url, name=url)
    ref = BlobImage(key="upload:" + "a" * 64, size_bytes=3, name="cat")
    assert _prepare(ref) == Prepared(ref, name="cat")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("/no/such.jpg", ImageNotFoundError, "No such file"),
        (b"", InvalidImageError, "0 bytes"),
        (b"x" * 101, ImageTooLargeError, "limit is 100"),
        (RNG.integers(0, 255, (100, 100, 3), dtype=np.uint8), ImageTooLargeError, "limit"),
        (12, UnsupportedImageError, "got int"),
        (None, UnsupportedImageError, "got NoneType"),
        (["a.jpg"], UnsupportedImageError, "got list"),
        ("http://" + "a" * 5000, InvalidImageError, "4096"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_cannot_be_sent_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        _prepare(source, max_bytes=100)


def test_a_path_that_workers_can_read_becomes_a_media_reference(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"x" * 50)
    reference = MediaRoots({"scans": tmp_path}).reference
    ref = prepare(tmp_path / "x.jpg", max_bytes=100, reference=reference).ref
    assert isinstance(ref, MediaImage)
    assert (ref.path, ref.name) == ("x.jpg", str(tmp_path / "x.jpg"))
    with pytest.raises(ImageTooLargeError):
        prepare(tmp_path / "x.jpg", max_bytes=10, reference=reference)


def test_names_that_are_no_text_are_escaped():
    assert readable(Path("/a") / b"\xff.jpg".decode(errors="surrogateescape")) == r"/a/\udcff.jpg"
    assert len(readable("x" * 5000)) == 1024


@pytest.mark.parametrize(
    "image",
    ["a.jpg", b"x", bytearray(b"x"), Path("a"), np.zeros((2, 2), np.uint8), Image.new("L", (1, 1)),
     InlineImage(data=b"x")],
    ids=lambda image: type(image).__name__,
)  # fmt: skip
def test_one_image_is_told_from_a_collection(image):
    assert is_single(image)
    assert not is_single([image])
    assert not is_single(iter([image]))


def test_small_images_ride_inside_the_request_and_large_ones_become_gapless_blobs():
    small, large = Prepared(None, b"s" * 8000, "s"), Prepared(None, b"l" * 8001, "l")
    url = Prepared(UrlImage(url="http://a.example/"))
    refs, payloads = place([large, small, url, large], job="j", hashed=False)
    assert [ref.kind for ref in refs] == ["blob", "inline", "url", "blob"]
    assert payloads == {"blob:j:0": large.data, "blob:j:1": large.data}
    assert refs[3] == BlobImage(key="blob:j:1", size_bytes=8001, name="l")


def test_many_small_images_do_not_swell_the_request():
    refs, payloads = place([Prepared(None, b"s" * 8000)] * 200, job="j", hashed=False)
    inline = sum(len(ref.data) for ref in refs if isinstance(ref, InlineImage))
    assert MAX_INLINE_TOTAL - 8000 < inline <= MAX_INLINE_TOTAL
    assert len(payloads) == sum(ref.kind == "blob" for ref in refs) > 0


def test_hashed_references_tell_different_pixels_apart():
    first, _ = place([Prepared(None, b"a" * 9000)], job="j", hashed=True)
    second, _ = place([Prepared(None, b"b" * 9000)], job="j", hashed=True)
    assert first != second


def test_an_open_file_is_told_from_a_collection_of_images(tmp_path):
    (tmp_path / "x.png").write_bytes(b"one\ntwo\n")
    with (tmp_path / "x.png").open("rb") as file:
        assert is_single(file)
        with pytest.raises(UnsupportedImageError, match="open file"):
            prepare(file, max_bytes=100)
