"""Large pictures in little memory: decoded, segmented in tiles, objects measured, maps encoded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import io, re, sys, time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

from models.catalog import Catalog
from models.images import decode
from models.recipes import cells
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.requests import SegmentationOptions
from workers.device import keep_freed_memory
from workers.hosted import HostedModel
from workers.segmentation import SegmentationRuntime

def peak_gib():
    # Not ru_maxrss, which begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20

side = int(sys.argv[1])
scene = cells.scene(1_000_000, size_wh=(500, 500), held_out=True)
stream = io.BytesIO()
Image.fromarray(np.tile(scene.image, (side // 500, side // 500))).save(stream, "PNG", compress_level=1)
keep_freed_memory()
hosted = HostedModel(Catalog().find("unet-cells"), device="cpu")
hosted.set_precision("fp32")
runtime = SegmentationRuntime(hosted)
runtime.warm_up(1)
kept = {}

def keep(data, media_type):
    kept[len(kept)] = len(data)
    return ArtifactRef(key=f"artifact:{len(kept):064x}", media_type=media_type, size_bytes=len(data))

image = decode(stream.getvalue(), max_bytes=2**30, max_pixels=2**30)
options = SegmentationOptions(min_area_px=100, instance_map=True, rle=True)
work = SimpleNamespace(
    request=SimpleNamespace(options=options), image=image, size_wh=image.image.size, keep=keep, stopping=False
)
before = peak_gib()
started = time.monotonic()
runtime.prepare(work)
work.image = image = None
steps, peaks = runtime.steps(work), []
try:
    while True:
        told = next(steps)
        peaks.append(peak_gib())
except StopIteration as end:
    result = end.value()
seconds, peak = time.monotonic() - started, peak_gib()
cells_there = scene.count(min_area_px=100) * (side // 500) ** 2
print(f"{side}x{side}: {result.num_tiles} tiles, {len(result.instances)} objects where about {cells_there} are, "
      f"{seconds:.0f} s, {kept} bytes kept; peak RSS {peak:.2f} GiB, "
      f"of it before {before:.2f}, after tiles {peaks[-1]:.2f}")
assert 0.8 < len(result.instances) / cells_there < 1.2
assert sum(entry.area_px for entry in result.classes) == side * side
print(peak)
"""


def peak_gib(side_px: int) -> float:
    """Segment a square picture in a process of its own; prints what it took, and gives its peak memory."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(side_px)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return float(done.stdout.split()[-1])


def test_a_picture_of_nine_tiles_takes_little_memory() -> None:
    assert peak_gib(1000) < 1.5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_by_ten_thousand_pixels_take_less_than_three_gib() -> None:
    assert peak_gib(10_000) < 3
