"""The fast part of ``make fuzz``, as tests."""

from __future__ import annotations

import io
import signal
import tarfile
import zipfile

import pytest
from PIL import Image

from models.errors import InvalidImage, UnsupportedImage
from models.images import decode
from tests.fuzz import decoding
from tests.fuzz.corpus import corpus, encode, picture
from tests.fuzz.decoding import decode_damaged
from tests.fuzz.mutate import case

SEED, CASES = 20, 4_000
LIMITS = {"max_bytes": 2**20, "max_pixels": 10**6}


@pytest.fixture
def one_crash(monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of a case at which the first decoding process is made to crash."""
    guilty, decode_chunk, crashed = decoding.CHUNK + 2, decoding.Child.decode, []

    def crash_once(child: decoding.Child, first: int, last: int) -> dict[str, object] | None:
        if first == decoding.CHUNK and not crashed:
            crashed.append(first)
            child._shared[:8] = guilty.to_bytes(8, "little")
            child._process.send_signal(signal.SIGSEGV)
            child._process.wait()
        return decode_chunk(child, first, last)

    monkeypatch.setattr(decoding.Child, "decode", crash_once)
    return guilty


def test_no_damaged_file_crashes_hangs_grows_or_reaches_for_something(one_crash):
    report = decode_damaged(CASES, seed=SEED)
    print(f"\n{report.cases} damaged files: {dict(report.outcomes)}, slowest {report.slowest_s:.2f} s")
    # The one that was made is seen, so any other would have been.
    assert report.problems == [f"case {one_crash} crashed its process: SIGSEGV"]
    assert report.cases == CASES
    # Both kinds of outcome, or the damage is too great, or none.
    assert report.outcomes["RGB"] + report.outcomes["L"] > CASES / 10
    assert report.outcomes["invalid_image"] > CASES / 10


def test_every_format_that_is_decoded_is_in_the_corpus():
    from models.headers import FORMATS, sniff

    assert {sniff(data) for data in corpus().values()} == set(FORMATS)
    assert all(name.split()[0] == sniff(data) for name, data in corpus().items())


def test_the_same_seed_gives_the_same_damage():
    files = corpus()
    assert [case(files, 3, i) for i in range(50)] == [case(files, 3, i) for i in range(50)]
    assert case(files, 3, 7) != case(files, 4, 7)


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.png", corpus()["PNG colour"])
    return stream.getvalue()


FOREIGN = {
    "zip": zipped(),
    "an empty zip": b"PK\x05\x06" + bytes(18),
    "tar": tar(),
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "bzip2": b"BZh91AY&SY" + bytes(40),
    "xz": b"\xfd7zXZ\x00" + bytes(40),
    "7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    "rar": b"Rar!\x1a\x07\x01\x00" + bytes(40),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(40),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "SVG after a declaration": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg/>',
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
    "EPS with a preview": b"\xc5\xd0\xd3\xc6" + bytes(60),
    "PostScript after a control character": b"\x04%!PS\n",
    "PDF": b"%PDF-1.7\n",
    "PDF after some bytes": b"\n\n%PDF-1.7\n",
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "EMF": b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(20),
    "ICO": b"\x00\x00\x01\x00\x01\x00" + bytes(60),
    "ICNS": b"icns" + bytes(60),
    "Photoshop": b"8BPS\x00\x01" + bytes(60),
    "FLI": bytes(4) + b"\x11\xaf" + bytes(122),
    "XPM": b'/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c #000", "a"};',
    "XBM": b"#define x_width 1\n#define x_height 1\nstatic char x_bits[] = {0};",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(60),
    "FITS": b"SIMPLE  =                    T",
    "HEIC": b"\0\0\0\x18ftypheic" + bytes(60),
    "MP4": b"\0\0\0\x18ftypisom" + bytes(60),
    "Matroska": b"\x1a\x45\xdf\xa3" + bytes(60),
    "JPEG XL": b"\xff\x0a" + bytes(60),
    "DICOM": bytes(128) + b"DICM" + bytes(60),
    "a program": b"\x7fELF\x02\x01\x01" + bytes(60),
    "a pickle": b"\x80\x04\x95\x00\x00" + bytes(60),
    "NumPy": b"\x93NUMPY\x01\x00" + bytes(60),
    "PAM": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0",
    "floating PNM": b"Pf\n1 1\n-1.0\n\0\0\0\0",
    "Radiance": b"#?RADIANCE\n",
    "a shell script": b"#!/bin/sh\nrm -rf /\n",
}  # fmt: skip


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_archives_drawings_and_formats_that_run_code_are_refused_by_their_first_bytes(data):
    with pytest.raises(UnsupportedImage, match="Expected one of JPEG") as caught:
        decode(data, **LIMITS)
    assert caught.value.code == "unsupported_image"


@pytest.mark.parametrize("data", [b"%!PS-Adobe", zipped(), FOREIGN["SVG"]], ids=["PostScript", "zip", "SVG"])
@pytest.mark.parametrize("cover", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"])
def test_a_cover_of_another_formats_first_bytes_does_not_help(cover, data):
    with pytest.raises(InvalidImage):
        decode(cover + data, **LIMITS)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_of_a_hundred_frames_one_is_decoded(file_format):
    first = picture((64, 64))
    others = [Image.effect_noise((64, 64), 50 + i).convert("RGB") for i in range(99)]
    how = {"AVIF": {"speed": 10}}.get(file_format, {})
    many = encode(first, file_format, save_all=True, append_images=others, **how)
    (_, peak_many), (_, peak_one) = (_peak_of(data) for data in (many, encode(first, file_format, **how)))
    decoded = decode(many, max_bytes=2**24, max_pixels=10**6)
    assert decoded.size_wh == (64, 64)
    assert peak_many - peak_one < 4 * 1024


def _peak_of(data: bytes) -> tuple[object, int]:
    from tests.fuzz.decode_child import forget_peak, peak_kib, resident_kib

    forget_peak()
    before = resident_kib()
    return decode(data, max_bytes=2**24, max_pixels=10**6), peak_kib() - before
