"""One small file of every kind that is decoded, to be damaged."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

SIZE_WH = (40, 28)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    """Encode a picture."""
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def picture(size_wh: tuple[int, int] = SIZE_WH) -> Image.Image:
    """Draw gradients and a product of both, in colour."""
    width, height = size_wh
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1).astype(np.uint8))


@cache
def corpus() -> dict[str, bytes]:
    """Name → file; the first word of the name is the format."""
    return dict(_files())


def exif_block(orientation: int) -> bytes:
    """A block with an orientation and some neighbours, big endian."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0132] = "a maker", orientation, "2020:01:01 00:00:00"
    return exif.tobytes()


def _files() -> Iterator[tuple[str, bytes]]:
    rgb = picture()
    grey = rgb.convert("L")
    rgba = Image.merge("RGBA", [*rgb.split(), grey])
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    yield from _jpegs(rgb, grey)
    yield "PNG colour", encode(rgb, "PNG", exif=exif_block(3))
    yield "PNG palette", encode(rgb.quantize(16), "PNG", transparency=bytes(range(16)))
    yield "PNG 16 bits", encode(deep, "PNG")
    yield "PNG one bit", encode(grey.convert("1"), "PNG")
    yield "PNG alpha and texts", encode(rgba, "PNG", icc_profile=bytes(3000), dpi=(72, 72))
    yield "WEBP lossy", encode(rgb, "WEBP", exif=exif_block(6))
    yield "WEBP lossless", encode(rgba, "WEBP", lossless=True)
    yield from _animations(rgb)
    yield "GIF grey", encode(grey, "GIF")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"TIFF {compression}", encode(rgb, "TIFF", compression=compression)
    yield "TIFF fax", encode(grey.convert("1"), "TIFF", compression="group4")
    yield "TIFF pages", encode(rgb, "TIFF", save_all=True, append_images=[grey])
    yield "TIFF palette and orientation", encode(rgb.quantize(16), "TIFF", tiffinfo={0x0112: 6})
    yield "TIFF 16 bits", encode(deep, "TIFF")
    yield "TIFF big", encode(rgb, "TIFF", big_tiff=True)
    yield "BMP colour", encode(rgb, "BMP")
    yield "BMP palette", encode(rgb.quantize(16), "BMP")
    yield "BMP run lengths", _rle_bmp()
    for kind in ("PPM", "PGM", "PBM"):
        yield f"PPM binary {kind}", encode({"PPM": rgb, "PGM": grey, "PBM": grey.convert("1")}[kind], "PPM")
    yield "PPM plain", b"P3\n# a comment\n4 2\n255\n" + b" ".join(b"%d" % (9 * i) for i in range(24))
    yield "PPM deep", encode(deep, "PPM")
    yield "JPEG2000 file", encode(rgb, "JPEG2000", tile_size=(16, 16))
    yield "JPEG2000 layers", encode(rgba, "JPEG2000", quality_layers=[20, 10, 5], irreversible=True)
    yield "JPEG2000 codestream", encode(grey, "JPEG2000", no_jp2=True)
    yield "AVIF lossy", encode(rgb, "AVIF", exif=exif_block(8))
    yield "AVIF alpha", encode(rgba, "AVIF", quality=90, speed=10)


def _jpegs(rgb: Image.Image, grey: Image.Image) -> Iterator[tuple[str, bytes]]:
    yield "JPEG colour", encode(rgb, "JPEG", quality=80)
    yield "JPEG upright from EXIF", encode(rgb, "JPEG", exif=exif_block(6), quality=60)
    yield "JPEG progressive", encode(rgb, "JPEG", progressive=True, quality=70)
    yield "JPEG restarts", encode(rgb, "JPEG", restart_marker_blocks=2)
    yield "JPEG CMYK", encode(rgb.convert("CMYK"), "JPEG")
    yield "JPEG grey", encode(grey, "JPEG", icc_profile=bytes(500))
    # Large enough that the scaled decode takes a fraction of it.
    yield "JPEG large", encode(picture((240, 160)), "JPEG", quality=50, subsampling=2)
    yield (
        "JPEG large progressive",
        encode(picture((240, 160)), "JPEG", quality=50, progressive=True, exif=exif_block(5)),
    )
    yield "JPEG many scans", _many_scans(90)
    yield "JPEG several pictures", encode(rgb, "MPO", save_all=True, append_images=[rgb.rotate(90)])


def _many_scans(count: int) -> bytes:
    data = encode(picture().convert("L"), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + data[-2:]


def _animations(rgb: Image.Image) -> Iterator[tuple[str, bytes]]:
    others = [rgb.rotate(angle) for angle in (90, 180, 270)]
    yield "GIF animated", encode(rgb, "GIF", save_all=True, append_images=others)
    yield "WEBP animated", encode(rgb, "WEBP", save_all=True, append_images=others, exif=exif_block(2))
    yield "PNG animated", encode(rgb, "PNG", save_all=True, append_images=others)
    yield "AVIF sequence", encode(rgb, "AVIF", save_all=True, append_images=others, speed=10)


def _rle_bmp() -> bytes:
    """Four rows of 8-bit run lengths, which Pillow reads and does not write."""
    rows = b"".join(bytes([4, row, 4, 7 * row, 0, 0]) for row in range(4)) + b"\x00\x01"
    palette = b"".join(bytes([i, i, 255 - i, 0]) for i in range(256))
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(rows), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + palette + rows
