"""``python -m tests.fuzz.decode_child SEED``: decodes the damaged files whose numbers it reads, and tells how it went.

Reads ``first last`` per line from stdin. Before each case its number goes into a shared page, so that the parent knows
what a dead child worked on; after each run of cases one line of JSON goes to stdout.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import os
import random
import struct
import sys
import time
from collections import Counter
from pathlib import Path

from models import headers
from models.cards import Preprocessing
from models.errors import ModelError
from models.images import decode
from models.preprocess import Preprocess
from tests.fuzz.corpus import corpus
from tests.fuzz.mutate import case

MAX_BYTES, MAX_PIXELS = 1 << 20, 1_000_000
ENOUGH_PX = (None, 8, 24, 100)
FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "import")
"""What no decoding of a file may lead to."""
ALLOWED_IMPORTS = ("PIL.", "_", "numpy")

_seen: list[str] = []


def listen(event: str, arguments: tuple[object, ...]) -> None:
    """Note whatever a decoder must not do."""
    if event == "import" and str(arguments[0]).startswith(ALLOWED_IMPORTS):
        return
    if event.startswith(FORBIDDEN) or (event == "open" and _writes(arguments)):
        _seen.append(f"{event} {arguments[:1]}")


def _writes(arguments: tuple[object, ...]) -> bool:
    mode = arguments[1] if len(arguments) > 1 else None
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")


def peak_kib() -> int:
    """The most memory since ``forget_peak``, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def resident_kib() -> int:
    """Memory now, in KiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def forget_peak() -> None:
    """Begin to measure the peak anew."""
    with open("/proc/self/clear_refs", "w") as switch:  # noqa: PTH123
        switch.write("5")


def decode_one(data: bytes, chance: random.Random) -> tuple[str, int]:
    """Send one file the worker's whole way to a network's input; gives the outcome in a word, and the peak in KiB."""
    headers.exif_orientation(data[chance.randrange(40) :])
    try:
        decoded = decode(data, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS, enough_px=chance.choice(ENOUGH_PX))
    except ModelError as error:
        said = error
    else:
        # Before it is prepared: a thin picture is resized to at most ``MAX_RESIZED_PIXELS``, whatever its own size.
        peak = peak_kib()
        width, height = decoded.size_wh
        assert decoded.image.mode in ("RGB", "L")
        assert 1 <= width * height <= MAX_PIXELS
        assert len(decoded.image.tobytes()) >= 1
        PREPROCESS(decoded.image, decoded.full_wh)
        return decoded.image.mode, peak
    assert said.message, "an error without words"
    return said.code, peak_kib()


def run(seed: int, first: int, last: int, shared: mmap.mmap) -> dict[str, object]:
    """Decode some cases, and sum up."""
    outcomes: Counter[str] = Counter()
    faults: list[tuple[int, str]] = []
    slowest, hungriest = (0.0, first), (0, first)
    for number in range(first, last):
        shared[:8] = struct.pack("<q", number)
        name, data = case(FILES, seed, number)
        forget_peak()
        before, begun = resident_kib(), time.process_time()
        _seen.clear()
        peak = before
        try:
            outcome, peak = decode_one(data, random.Random(number))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
            outcome = "untyped"
            faults.append((number, f"{name}: {type(error).__name__}: {error}"))
        spent, grown = time.process_time() - begun, peak - before
        if _seen:
            faults.append((number, f"{name}: {_seen[:3]}"))
        outcomes[outcome] += 1
        slowest, hungriest = max(slowest, (spent, number)), max(hungriest, (grown, number))
    gc.collect()
    # What the allocator keeps for the next large picture is no leak.
    ctypes.CDLL(None).malloc_trim(0)
    shared[:8] = struct.pack("<q", -1)
    return {
        "cases": last - first,
        "outcomes": outcomes,
        "faults": faults,
        "slowest": slowest,
        "hungriest": hungriest,
        "rss_kib": resident_kib(),
    }


def main() -> None:
    """Serve until stdin ends."""
    seed = int(sys.argv[1])
    shared = mmap.mmap(int(sys.argv[2]), mmap.PAGESIZE)
    # The libraries' own complaints about files.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for data in FILES.values():
        decode_one(data, random.Random(0))
    sys.addaudithook(listen)
    while line := sys.stdin.readline():
        first, last = map(int, line.split())
        print(json.dumps(run(seed, first, last, shared)), flush=True)


FILES = corpus()
PREPROCESS = Preprocess(Preprocessing(resize=40, crop=32))

if __name__ == "__main__":
    main()
