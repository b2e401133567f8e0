import importlib.util
import io
import random
import struct
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from models.cards import Preprocessing
from models.errors import ImageTooLarge, InvalidImage, ModelError, UnsupportedImage
from models.images import MAX_JPEG_SCANS, decode
from models.preprocess import Preprocess

LIMITS = {"max_bytes": 32 * 2**20, "max_pixels": 50_000_000}


def encoded(image, file_format="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def picture(width=37, height=23):
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1).astype(np.uint8))


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


def webp_bomb():
    data = bytearray(encoded(picture(), "WEBP", lossless=True, exif=b"Exif\0\0II*\0"))
    data[24:30] = (16_382).to_bytes(3, "little") * 2
    return bytes(data)


def wrong_crc():
    data = bytearray(encoded(picture()))
    data[-20] ^= 0xFF
    return bytes(data)


def grey_16(levels):
    return Image.fromarray(np.asarray(levels, dtype=np.uint16))


def zip_file():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", encoded(picture()))
    return stream.getvalue()


def frames(file_format, **options):
    others = [picture().rotate(180), picture().rotate(90, expand=False)]
    return encoded(picture(), file_format, save_all=True, append_images=others, **options)


PNG, JPEG = encoded(picture()), encoded(picture(), "JPEG")

BAD = {
    "no bytes": (b"", InvalidImage),
    "one byte": (b"\xff", UnsupportedImage),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], InvalidImage),
    "JPEG without its end": (JPEG[:-40], InvalidImage),
    "JPEG header alone": (JPEG[:24], InvalidImage),
    "text renamed .jpg": (b"Dear reader, this is no picture.\n", UnsupportedImage),
    "HTML": (b"<!DOCTYPE html><html><body>404</body></html>", UnsupportedImage),
    "SVG": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', UnsupportedImage),
    "zip": (zip_file(), UnsupportedImage),
    "PDF": (b"%PDF-1.7\n...", UnsupportedImage),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UnsupportedImage),
    "PNG bomb": (png_bomb(), ImageTooLarge),
    "WebP bomb": (webp_bomb(), ImageTooLarge),
    "PNG signature alone": (PNG[:8], InvalidImage),
    "half a PNG": (PNG[: len(PNG) // 2], InvalidImage),
    "wrong CRC": (wrong_crc(), InvalidImage),
    "PNG of no pixels": (PNG[:16] + bytes(8) + PNG[24:], InvalidImage),
    "float TIFF": (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), UnsupportedImage),
    "32-bit TIFF": (encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"), UnsupportedImage),
    "truncated TIFF": (encoded(picture(), "TIFF")[:-500], InvalidImage),
    "truncated GIF": (frames("GIF")[:900], InvalidImage),
    "truncated WebP": (encoded(picture(), "WEBP")[:200], InvalidImage),
    "too many bytes": (PNG + bytes(LIMITS["max_bytes"]), ImageTooLarge),
}


@pytest.mark.parametrize(("data", "error"), BAD.values(), ids=BAD.keys())
def test_what_is_no_whole_picture_gets_a_typed_error(data, error):
    with pytest.raises(InvalidImage) as caught:
        decode(data, **LIMITS)
    assert type(caught.value) is error
    assert caught.value.message.startswith(("Expected", "The picture"))


def test_a_tiff_of_a_layout_that_pillow_does_not_read_is_called_unsupported():
    package = importlib.util.find_spec("skimage")
    (folder,) = package.submodule_search_locations
    with pytest.raises(UnsupportedImage, match="layout of channels"):
        decode((Path(folder) / "data" / "multipage_rgb.tif").read_bytes(), **LIMITS)


GOOD = {
    "CMYK JPEG": encoded(picture().convert("CMYK"), "JPEG"),
    "grey JPEG": encoded(picture().convert("L"), "JPEG"),
    "progressive JPEG": encoded(picture(), "JPEG", progressive=True),
    "palette PNG": encoded(picture().quantize(32)),
    "palette PNG with transparent colours": encoded(picture().quantize(32), transparency=bytes(range(0, 256, 8))),
    "palette PNG with one transparent colour": encoded(picture().quantize(32), transparency=3),
    "grey PNG with a transparent level": encoded(picture().convert("L"), transparency=7),
    "1-bit PNG": encoded(picture().convert("1")),
    "1-bit TIFF": encoded(picture().convert("1"), "TIFF", compression="group4"),
    "LA PNG": encoded(picture().convert("LA")),
    "RGBA PNG": encoded(Image.merge("RGBA", [*picture().split(), picture().convert("L")])),
    "RGBA WebP": encoded(Image.merge("RGBA", [*picture().split(), picture().convert("L")]), "WEBP", lossless=True),
    "animated GIF": frames("GIF"),
    "animated WebP": frames("WEBP", lossless=True),
    "APNG": frames("PNG"),
    "MPO": frames("MPO"),
    "multi-page TIFF": frames("TIFF"),
    "LZW TIFF": encoded(picture(), "TIFF", compression="tiff_lzw"),
    "CMYK TIFF": encoded(picture().convert("CMYK"), "TIFF"),
    "BMP": encoded(picture(), "BMP"),
    "PPM": encoded(picture(), "PPM"),
    "JPEG 2000": encoded(picture(), "JPEG2000"),
    "AVIF": encoded(picture(), "AVIF"),
    "1x1": encoded(picture(1, 1)),
    "20000x10": encoded(picture(20_000, 10)),
    "huge colour profile in a JPEG": encoded(picture(), "JPEG", icc_profile=bytes(3_000_000)),
    "huge colour profile in a WebP": encoded(picture(), "WEBP", icc_profile=bytes(3_000_000)),
    "bytes after the end": PNG + b"trailing",
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_a_good_picture_has_the_pixels_of_torchvisions_reference(data):
    decoded = decode(data, **LIMITS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = Image.open(io.BytesIO(data)).convert("RGB")
    assert decoded.image.mode in ("RGB", "L")
    assert decoded.size_wh == reference.size
    assert np.array_equal(np.asarray(decoded.image.convert("RGB")), np.asarray(reference))


def test_a_huge_colour_profile_does_not_spoil_a_png():
    decoded = decode(encoded(picture(), icc_profile=bytes(3_000_000)), **LIMITS)
    assert np.array_equal(np.asarray(decoded.image), np.asarray(picture()))


def test_metadata_that_pillow_warns_of_is_passed_over_in_silence():
    empty_animation = PNG[:33] + png_chunk(b"acTL", bytes(8)) + PNG[33:]
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(empty_animation)).load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode(empty_animation, **LIMITS)
    assert np.array_equal(np.asarray(decoded.image), np.asarray(picture()))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_and_not_clipped(file_format):
    levels = np.arange(0, 65_536, 16, dtype=np.uint16).reshape(64, 64)
    decoded = decode(encoded(grey_16(levels), file_format), **LIMITS)
    assert decoded.image.mode == "L"
    assert np.array_equal(np.asarray(decoded.image), np.rint(levels / 257))


def test_16_bit_colour_keeps_its_high_bytes():
    rows = bytes(1) + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 0x0100, 0xABCD)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows))
    decoded = decode(data + png_chunk(b"IEND", b""), **LIMITS)
    assert np.asarray(decoded.image).tolist() == [[[0x12, 0x80, 0xFF], [0, 0x01, 0xAB]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_exif_orientation_is_applied_pixel_by_pixel(file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if file_format == "WEBP" else {}
    plain = decode(encoded(picture(), file_format, **options), **LIMITS).image
    tagged = encoded(picture(), file_format, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(tagged)))
    decoded = decode(tagged, **LIMITS)
    assert decoded.size_wh == ((23, 37) if orientation >= 5 else (37, 23))
    assert ImageOps.exif_transpose(decoded.image).tobytes() == decoded.image.tobytes()
    assert np.array_equal(np.asarray(decoded.image), np.asarray(expected))
    back = {6: 8, 8: 6}.get(orientation, orientation)
    assert np.array_equal(_oriented(np.asarray(decoded.image), back), np.asarray(plain))


def _oriented(pixels, orientation):
    """The definition of the tag, by index arithmetic instead of Pillow's transposes."""
    rows, columns = pixels[::-1], pixels[:, ::-1]
    turned = pixels.transpose(1, 0, 2)
    return {
        1: pixels,
        2: columns,
        3: rows[:, ::-1],
        4: rows,
        5: turned,
        6: turned[:, ::-1],
        7: turned[::-1, ::-1],
        8: turned[::-1],
    }[orientation]


@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b"garbage" * 9],
    ids=["empty", "header alone", "wild offset", "cut directory", "garbage"],
)
def test_a_damaged_exif_block_leaves_the_picture_upright(exif):
    assert decode(encoded(picture(), "JPEG", exif=exif), **LIMITS).size_wh == (37, 23)


@pytest.mark.parametrize(("max_pixels", "fits"), [(37 * 23, True), (37 * 23 - 1, False)])
def test_the_pixel_limit_is_exact(max_pixels, fits):
    if fits:
        assert decode(PNG, max_bytes=10_000, max_pixels=max_pixels).size_wh == (37, 23)
        return
    with pytest.raises(ImageTooLarge) as caught:
        decode(PNG, max_bytes=10_000, max_pixels=max_pixels)
    assert caught.value.details == {"max_pixels": max_pixels, "size_wh": [37, 23]}


def test_a_gif_frame_larger_than_the_header_says_is_too_large():
    data = bytearray(encoded(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", 4, 4)
    assert decode(bytes(data), max_bytes=10**6, max_pixels=37 * 23).size_wh == (37, 23)
    with pytest.raises(ImageTooLarge):
        decode(bytes(data), max_bytes=10**6, max_pixels=100)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_no_mutation_of_a_file_gets_past_the_typed_errors(file_format):
    chance = random.Random(file_format)
    original = encoded(picture(), file_format)
    outcomes = set()
    for _ in range(150):
        data = bytearray(original)
        for _ in range(chance.choice((1, 2, 5, 20))):
            data[chance.randrange(chance.choice((64, len(data))))] = chance.randrange(256)
        del data[chance.randrange(len(data)) if chance.random() < 0.3 else len(data) :]
        try:
            outcomes.add(decode(bytes(data), max_bytes=10**6, max_pixels=10**6).image.mode)
        except ModelError as error:
            outcomes.add(error.code)
    assert "invalid_image" in outcomes
    assert outcomes <= {"RGB", "L", "invalid_image", "unsupported_image", "image_too_large"}


def test_decoding_changes_no_state_of_pillow():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for data, _ in BAD.values():
        with pytest.raises(InvalidImage):
            decode(data, **LIMITS)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_a_picture_beyond_pillows_own_limit_is_decoded_where_ours_allows_it():
    width = Image.MAX_IMAGE_PIXELS + 2
    data = encoded(Image.new("1", (width, 1)))
    assert decode(data, max_bytes=10**6, max_pixels=width).size_wh == (width, 1)


def test_threads_decode_side_by_side():
    expected = {name: decode(data, **LIMITS).image.tobytes() for name, data in GOOD.items() if name != "20000x10"}
    faults = []

    def work(seed):
        names = list(expected)
        random.Random(seed).shuffle(names)
        faults.extend(name for name in names if decode(GOOD[name], **LIMITS).image.tobytes() != expected[name])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize(
    ("plain", "commented"),
    [
        (b"P2 2 2 9 1 2 3 4\n", b"P2 # a\n2 2 #b\r9\n1 2#c\n3 4 # end"),
        (b"P5 2 2 255 #12#", b"P5\n# made by\n# hand\n2 #w\n2\n255 #12#"),
        (b"P4 8 2 #1", b"P4 # x\n8 2 #1"),
        (b"P6 1 1 255\n#\n1", b"P6\t#\n1 1 255\n#\n1"),
    ],
)
def test_comments_in_a_pnm_change_nothing(plain, commented):
    expected, found = (np.asarray(decode(data, **LIMITS).image) for data in (plain, commented))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "data",
    [b"P2 1000 1000 9\n" + b"1\n#\n" * 900_000, b"P5 " + b"#" * 2**24, b"P6 " + b"#\n" * 2**22, b"P5 1 1"],
    ids=["plain", "one long", "many short", "cut off"],
)
def test_a_pnm_of_comments_takes_no_time(data):
    begun = time.monotonic()
    with pytest.raises(InvalidImage):
        decode(data, **LIMITS)
    assert time.monotonic() - begun < 5


def photograph(size_wh, **how):
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    stream = io.BytesIO()
    coarse.resize(size_wh, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90, **how)
    return stream.getvalue()


ROOM = {"max_bytes": 2**28, "max_pixels": 2**28}


@pytest.mark.parametrize(
    ("size_wh", "enough_px", "expected_wh"),
    [
        ((1201, 801), 400, (601, 401)),
        ((1201, 801), 401, (1201, 801)),
        ((4000, 3000), 448, (1000, 750)),
        ((4000, 300), 448, (4000, 300)),
        ((640, 480), None, (640, 480)),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_that_is_enough(size_wh, enough_px, expected_wh):
    decoded = decode(photograph(size_wh), **ROOM, enough_px=enough_px)
    assert decoded.image.size == expected_wh
    assert decoded.size_wh == size_wh


def test_a_fraction_of_a_picture_on_its_side_keeps_its_own_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(photograph((1600, 1200), exif=exif), **ROOM, enough_px=300)
    assert (decoded.image.size, decoded.size_wh) == ((300, 400), (1200, 1600))


@pytest.mark.parametrize("size_wh", [(1601, 1201), (2049, 1537), (4032, 3024)])
def test_the_input_from_a_fraction_is_that_from_the_whole_within_a_level(size_wh):
    preprocess = Preprocess(Preprocessing(resize=232, crop=224))
    data = photograph(size_wh)
    whole, part = decode(data, **ROOM), decode(data, **ROOM, enough_px=preprocess.enough_px)
    assert part.image.size < whole.image.size
    levels = preprocess.levels(part.image, part.full_wh).int() - preprocess.levels(whole.image).int()
    assert levels.shape == (3, 224, 224)
    assert levels.abs().float().mean() < 0.5
    assert levels.abs().max() <= 6


def many_scans(count, *, behind=b""):
    """A progressive JPEG whose last scan, a hundred bytes, is there so many times."""
    data = encoded(Image.new("L", (2000, 2000), 128), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (count - data.count(b"\xff\xda")) + data[-2:] + behind


def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_too_large():
    assert decode(many_scans(MAX_JPEG_SCANS), **LIMITS).size_wh == (2000, 2000)
    begun = time.process_time()
    for count in (MAX_JPEG_SCANS + 1, 50_000):
        with pytest.raises(ImageTooLarge, match="scans"):
            decode(many_scans(count), **LIMITS)
    assert time.process_time() - begun < 2


def test_what_lies_behind_a_jpeg_or_in_its_metadata_counts_as_no_scan():
    film = b"\xff\xda\x00\x08" * 1000
    assert decode(JPEG + film, **LIMITS).size_wh == (37, 23)
    assert decode(encoded(picture(), "JPEG", comment=film[:60_000]), **LIMITS).size_wh == (37, 23)
    assert decode(many_scans(20, behind=film), **LIMITS).size_wh == (2000, 2000)
