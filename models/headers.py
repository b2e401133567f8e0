"""What the first bytes of a picture say: its format, its size where Pillow would be late, its orientation."""

from __future__ import annotations

import re
import struct

from models.errors import InvalidImage, UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
"""The formats that are decoded, by Pillow's names."""

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
_REFUSED = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x00\x00\x01\x00", "an icon"),
)
_ORIENTATION_TAG = 0x0112
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8)
_PNM_COMMENT = re.compile(rb"#[^\r\n]*+[\r\n]?")
# Possessive throughout: a file of nothing but comments must not be read twice.
_PBM_HEADER = re.compile(rb"P4(?:(?:\s|#[^\r\n]*+[\r\n])++\d++){2}")
_PNM_HEADER = re.compile(rb"P[56](?:(?:\s|#[^\r\n]*+[\r\n])++\d++){3}")


def sniff(data: bytes) -> str:
    """Tell the format from the first bytes.

    Returns:
        One of ``FORMATS``.

    Raises:
        InvalidImage: There are no bytes.
        UnsupportedImage: They begin no format that is decoded here; the message says what they look like.
    """
    if not data:
        raise InvalidImage("Expected a picture, got 0 bytes.")
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    if data[:1] == b"P" and data[1:2] in b"123456" and data[2:3].isspace():
        return "PPM"
    raise UnsupportedImage(
        f"Expected one of {', '.join(FORMATS)}, got {_guess(data)}. Save the picture in one of these formats.",
        begins_with=data[:16].hex(),
    )


def early_size_wh(file_format: str, data: bytes) -> tuple[int, int] | None:
    """Read width and height of a WebP, whose decoder allocates its canvas as soon as Pillow opens it.

    Returns:
        ``None`` for the other formats, and where the header is cut off.
    """
    if file_format != "WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def jpeg_scans(data: bytes, most: int) -> int:
    """Count the scans of a JPEG's first picture, or give ``most`` or fewer where they are fewer for certain.

    Each of a progressive JPEG's scans goes over all its pixels, and takes no more than a hundred bytes.
    """
    # Thumbnails, and films that phones append, may contain the marker too; so it is looked for properly if need be.
    if (marks := data.count(b"\xff\xda")) <= most:
        return marks
    scans, at = 0, 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[0][1], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker not in _WITHOUT_LENGTH:
            at += int.from_bytes(data[at : at + 2], "big")
        scans += marker == _START_OF_SCAN
    return scans


def exif_orientation(exif: bytes | None) -> int:
    """Read the orientation from an EXIF block; 1 (upright) where it is absent or damaged."""
    if not exif:
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, offset)
        for index in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", block, offset + 2 + 12 * index)
            if tag == _ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def png_without_texts(data: bytes) -> bytes:
    """Copy a PNG without its texts and its colour profile."""
    kept, start = [data[:8]], 8
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if data[start + 4 : start + 8] not in (b"iCCP", b"iTXt", b"tEXt", b"zTXt"):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def pnm_without_comments(data: bytes) -> bytes:
    """Copy a PBM, PGM or PPM without its comments, which Pillow takes minutes over where there are many or long ones.

    Raises:
        InvalidImage: Its header is cut off.
    """
    if data[1:2] in b"123":
        return _PNM_COMMENT.sub(b"\n", data)
    found = (_PBM_HEADER if data[1:2] == b"4" else _PNM_HEADER).match(data)
    if found is None:
        raise InvalidImage("Expected width, height and depth after the first two letters of a PNM picture, got none.")
    return _PNM_COMMENT.sub(b"\n", found[0]) + data[found.end() :] if b"#" in found[0] else data


def _guess(data: bytes) -> str:
    for magic, name in _REFUSED:
        if data.startswith(magic):
            return name
    head = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    try:
        data[:64].decode("ascii")
    except UnicodeDecodeError:
        return f"bytes that begin with {data[:8].hex(' ')}"
    return f"text that begins with {data[:24].decode('ascii')!r}"
