"""A few files that are broken in the ways files break."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path


def write_broken(folder: Path) -> int:
    """Write broken pictures, and two files that are none and say so; returns how many files there are."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.linear_gradient("L").resize((64, 64))
    jpeg, png = _encoded(picture, "JPEG"), _encoded(picture, "PNG")
    files = {
        "empty.png": b"",
        "half a download.png": png[: len(png) // 2],
        "cut off.jpg": jpeg[: len(jpeg) // 2],
        "text renamed.jpg": b"Dear colleague, please find the scan attached.\n",
        "error page.png": b"<!doctype html><title>404 Not Found</title>",
        "bomb 60000x60000.png": _png_that_claims(60_000, 60_000),
        "flipped bits.png": png[:60] + bytes(byte ^ 0xFF for byte in png[60:70]) + png[70:],
        "notes.txt": b"Not an image, and not called one.\n",
        ".thumbnails.db": b"hidden",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    link = folder / "moved away.jpg"
    link.unlink(missing_ok=True)
    link.symlink_to("nowhere.jpg")
    return len(files) + 1


def _encoded(picture: object, file_format: str) -> bytes:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    buffer = io.BytesIO()
    picture.save(buffer, file_format)
    return buffer.getvalue()


def _png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
