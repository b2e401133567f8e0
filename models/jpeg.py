"""What a JPEG's header says, for decoders that take common files only: those on a GPU."""

from __future__ import annotations

from models.headers import exif_orientation

BASELINE = 0xC0
"""Marker of a frame of 8 bits per channel, coded sequentially and by Huffman: what decoders in hardware take."""
_SCAN = 0xDA
_EXIF, _MPF, _ADOBE = (0xE1, b"Exif\0\0"), (0xE2, b"MPF\0"), (0xEE, b"Adobe")
_LUMA = (0x11, 0x21, 0x22)
"""Pixels of brightness for each of colour, across and down, as the header spells them: 1x1, 2x1, 2x2."""
_RGB = (0x52, 0x47, 0x42)
_END = b"\xff\xd9"


def common_size_wh(data: bytes) -> tuple[int, int] | None:
    """Read the size of a JPEG that any decoder reads alike.

    That is baseline YCbCr of 8 bits, upright, whole, one picture, its colours at full, half or quarter resolution.

    Args:
        data: The file.

    Returns:
        Width and height in pixels; ``None`` for every other file, damaged ones included.
    """
    if not (data.startswith(b"\xff\xd8\xff") and data.endswith(_END)):
        return None
    size_wh: tuple[int, int] | None = None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        segment = data[at + 4 : at + 2 + length]
        if marker == _SCAN:
            return size_wh
        if length < 2 or len(segment) != length - 2 or _is_odd(marker, segment):
            return None
        if marker == BASELINE:
            size_wh = _frame_size_wh(segment) if size_wh is None else None
            if size_wh is None:
                return None
        at += 2 + length
    return None


def _is_odd(marker: int, segment: bytes) -> bool:
    """Whether a segment says that the picture needs more than decoding, or is no baseline one."""
    # 0xC4 and 0xCC define tables; the others of this range begin frames that are coded in other ways.
    if 0xC0 < marker <= 0xCF and marker not in (0xC4, 0xCC):
        return True
    if marker == _EXIF[0] and segment.startswith(_EXIF[1]):
        return exif_orientation(segment) != 1
    # A transform of 0 means colours that are no YCbCr.
    is_adobe = marker == _ADOBE[0] and segment.startswith(_ADOBE[1])
    return (marker == _MPF[0] and segment.startswith(_MPF[1])) or (is_adobe and segment[-1] != 1)


def _frame_size_wh(segment: bytes) -> tuple[int, int] | None:
    if len(segment) != 15 or segment[0] != 8 or segment[5] != 3:
        return None
    height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
    identifiers, sampling = tuple(segment[6::3]), tuple(segment[7::3])
    if not (height and width) or identifiers == _RGB or sampling[0] not in _LUMA or sampling[1:] != (0x11, 0x11):
        return None
    return width, height
