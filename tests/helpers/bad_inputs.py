"""Writes the files that folders of images really contain: odd ones that must be right, bad ones that must be told."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OK = "ok"


@dataclass(frozen=True)
class Odd:
    """One file and what must become of it."""

    name: bytes
    """Relative path."""
    expected: tuple[str, ...]
    """``ok``, the codes that are right, or a reason for skipping."""
    what: str
    """In words."""
    label: str | None = None
    """The digit it shows, where it is good and shows one."""


def write_odd_files(folder: Path, digit_HW: NDArray[np.uint8], label: str) -> list[Odd]:
    """Write them all into a folder.

    Args:
        folder: Must exist.
        digit_HW: A picture of a digit, uint8 of shape (8, 8).
        label: Which digit.
    """
    digit = Image.fromarray(digit_HW)
    written = []
    for what, name, expected, content in [*_odd(digit), *_bad(digit), *_names(digit)]:
        _put(folder, name, content)
        shown = label if expected == (OK,) and "no digit" not in what else None
        written.append(Odd(name, expected, what, shown))
    return written + list(_not_files(folder))


Case = tuple[str, bytes, tuple[str, ...], bytes]


def _odd(digit: Image.Image) -> Iterator[Case]:
    large = digit.resize((96, 96), Image.Resampling.NEAREST)
    rgb = large.convert("RGB")
    yield "plain PNG", b"plain.png", (OK,), encode(digit, "PNG")
    yield "CMYK JPEG", b"cmyk.jpg", (OK,), encode(rgb.convert("CMYK"), "JPEG", quality=95)
    yield "16-bit grey PNG", b"grey16.png", (OK,), encode(_sixteen_bit(large), "PNG")
    yield "palette PNG", b"palette.png", (OK,), encode(rgb.quantize(32), "PNG")
    yield "RGBA PNG", b"rgba.png", (OK,), encode(rgb.convert("RGBA"), "PNG")
    yield "grey with alpha", b"la.png", (OK,), encode(large.convert("LA"), "PNG")
    yield "1-bit PNG", b"bits.png", (OK,), encode(large.point(lambda v: 255 * (v > 100)).convert("1"), "PNG")
    yield "animated GIF", b"animated.gif", (OK,), encode(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)])
    yield "animated WebP", b"animated.webp", (OK,), encode(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)])
    yield "animated PNG", b"animated.png", (OK,), encode(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)])
    yield "EXIF-rotated JPEG", b"rotated.jpg", (OK,), _rotated(rgb)
    yield "multi-page TIFF", b"pages.tif", (OK,), encode(large, "TIFF", save_all=True, append_images=[large.rotate(90)])
    yield "BMP", b"picture.bmp", (OK,), encode(rgb, "BMP")
    yield "PPM", b"picture.ppm", (OK,), encode(rgb, "PPM")
    yield "progressive JPEG", b"progressive.JPEG", (OK,), encode(rgb, "JPEG", progressive=True, quality=95)
    yield "PNG called .jpg", b"really a png.jpg", (OK,), encode(large, "PNG")
    yield "JPEG with trailing rubbish", b"trailing.jpg", (OK,), encode(rgb, "JPEG", quality=95) + b"\0" * 500
    yield "one pixel, no digit", b"1x1.png", (OK,), encode(Image.new("L", (1, 1)), "PNG")
    yield "very wide, no digit", b"20000x10.png", (OK,), encode(Image.new("L", (20_000, 10)), "PNG")


def _bad(digit: Image.Image) -> Iterator[Case]:
    rgb = digit.resize((96, 96)).convert("RGB")
    jpeg, png = encode(rgb, "JPEG"), encode(rgb, "PNG")
    damaged = ("invalid_image",)
    foreign = ("unsupported_image", "invalid_image")
    yield "0 bytes", b"empty.png", damaged, b""
    yield "truncated JPEG", b"truncated.jpg", damaged, jpeg[: len(jpeg) // 2]
    yield "half a PNG", b"half.png", damaged, png[: len(png) // 2]
    yield "only a PNG signature", b"signature.png", damaged, png[:8]
    yield "wrong CRC", b"crc.png", damaged, _flip(png, png.index(b"IDAT") + 4 + 20)
    yield "text renamed", b"text.jpg", foreign, b"This is a letter.\n" * 20
    yield "HTML page", b"page.png", foreign, b"<!doctype html><html><body>404</body></html>"
    yield "SVG", b"drawing.png", foreign, b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "zip archive", b"archive.jpg", foreign, b"PK\x03\x04" + bytes(200)
    yield "PDF", b"paper.jpg", foreign, b"%PDF-1.7\n" + bytes(200)
    yield "random bytes", b"noise.jpg", foreign, bytes((i * 7919) % 251 for i in range(2000))
    yield "PNG bomb 60000x60000", b"bomb.png", ("image_too_large",), png_that_claims(60_000, 60_000)
    yield "PNG of no width", b"flat.png", damaged, png_that_claims(0, 10)
    yield "float TIFF", b"float.tif", (OK, *foreign), encode(rgb.convert("L").convert("F"), "TIFF")
    yield "JPEG without picture", b"headers.jpg", damaged, jpeg[:20]


def _names(digit: Image.Image) -> Iterator[Case]:
    png = encode(digit, "PNG")
    yield "name that is not UTF-8", b"caf\xe9 \xff.png", (OK,), png
    yield "name of 255 bytes", b"n" * 251 + b".png", (OK,), png
    yield "name with a newline", b"two\nlines.png", (OK,), png
    yield "name with markup", b"<img src=x onerror=alert(1)>.png", (OK,), png
    yield "name with quotes", b"a \"b\", 'c'; --.png", (OK,), png
    yield "name with a per cent sign", b"100%25 #1?.png", (OK,), png
    yield "name in another script", "数字 🙂.png".encode(), (OK,), png
    yield "deep path", b"/".join([b"deep"] * 40) + b"/x.png", (OK,), png
    yield "below a folder named x.jpg", b"x.jpg/inside.png", (OK,), png
    yield "no image by name", b"notes.txt", ("other_type",), b"notes"
    yield "hidden", b".hidden.png", ("hidden",), png


def _not_files(folder: Path) -> Iterator[Odd]:
    links: list[tuple[bytes, str, tuple[str, ...], str]] = [
        (b"broken link.png", "nowhere.png", ("image_not_found",), "broken symlink"),
        (b"endless link.png", "endless link.png", ("image_not_found",), "symlink to itself"),
        (b"link.png", "plain.png", (OK,), "symlink to a picture"),
        (b"loop", ".", ("linked_inside",), "symlink to its own folder"),
    ]
    for name, target, expected, what in links:
        (folder / os.fsdecode(name)).symlink_to(target)
        yield Odd(name, expected, what)
    os.mkfifo(folder / "pipe.png")
    yield Odd(b"pipe.png", ("not_a_file",), "named pipe")
    (folder / "folder.png").mkdir()


def encode(image: Image.Image, file_format: str, **how: object) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **how)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """Make a small PNG whose header promises a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def _sixteen_bit(grey: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)


def _rotated(rgb: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise to view, so it is stored turned the other way.
    return encode(rgb.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


def _put(folder: Path, name: bytes, content: bytes) -> None:
    path = folder / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
