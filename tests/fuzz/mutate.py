"""Damages files: the same seed and number give the same damage."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

INTERESTING = (0, 1, 2, 7, 8, *(2**bits + more for bits in (7, 8, 15, 16, 31) for more in (-1, 0)), 2**32 - 1)
HEADER_BYTES = 96
"""Where most of what a decoder believes is said."""
MAX_BYTES = 1 << 18

Mutation = Callable[[bytearray, random.Random], None]


def case(files: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Damage one file of a corpus: gives its name and what became of it."""
    chance = random.Random(f"{seed}:{number}")
    names = list(files)
    name = names[number % len(names)]
    data = bytearray(files[name])
    for _ in range(chance.choice((1, 1, 2, 3, 5, 12))):
        if not data:
            break
        chance.choices(_MUTATIONS, _WEIGHTS)[0](data, chance)
    if chance.random() < 0.04:
        _splice(data, files[chance.choice(names)], chance)
    if name.startswith("PNG") and chance.random() < 0.7:
        # A decoder that checks sums first would never get to see the rest.
        mend_png(data)
    return name, bytes(data[:MAX_BYTES])


def mend_png(data: bytearray) -> None:
    """Write the right check sum behind every chunk of a damaged PNG."""
    start = 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        end = start + 8 + length
        if end + 4 > len(data):
            return
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[start + 4 : end]))
        start = end + 4


def _place(data: bytearray, chance: random.Random) -> int:
    reach = HEADER_BYTES if chance.random() < 0.5 else len(data)
    return chance.randrange(min(reach, len(data)))


def _flip_bit(data: bytearray, chance: random.Random) -> None:
    data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set_byte(data: bytearray, chance: random.Random) -> None:
    data[_place(data, chance)] = chance.randrange(256)


def _set_number(data: bytearray, chance: random.Random) -> None:
    """Write a number at the edge of something, as 16 or 32 bits of either order."""
    code = chance.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(code)
    value = chance.choice(INTERESTING) + chance.choice((-1, 0, 0, 1))
    at = _place(data, chance)
    data[at : at + size] = struct.pack(code, value & ((1 << 8 * size) - 1))


def _add_to_number(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at] = (data[at] + chance.choice((-16, -4, -1, 1, 4, 16))) & 0xFF


def _cut_out(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 2, 4, 16, 100))]


def _cut_off(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    piece = bytes(data[at : at + chance.choice((2, 8, 64, 400))])
    data[at:at] = piece * chance.choice((1, 2, 8, 60))


def _insert_noise(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.choice((1, 3, 16, 200)))


def _fill(data: bytearray, chance: random.Random) -> None:
    at, size = _place(data, chance), chance.choice((4, 16, 64))
    size = min(size, len(data) - at)
    data[at : at + size] = bytes([chance.choice((0, 0xFF, 0x80))]) * size


def _move(data: bytearray, chance: random.Random) -> None:
    at, size = _place(data, chance), chance.choice((4, 12, 64))
    piece = bytes(data[at : at + size])
    del data[at : at + size]
    to = chance.randrange(len(data) + 1)
    data[to:to] = piece


def _splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    """Let another file begin in the middle of this one."""
    data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other)) :]


_MUTATIONS: tuple[Mutation, ...] = (
    _flip_bit, _set_byte, _set_number, _add_to_number, _cut_out, _cut_off, _repeat, _insert_noise, _fill, _move,
)  # fmt: skip
_WEIGHTS = (6, 6, 8, 4, 2, 1, 2, 2, 2, 1)
