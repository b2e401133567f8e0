"""Resident memory of a worker after a tenth, a half and the whole of a long run: python -m tests.bench.memory.

Buffers of every shape are in use after the first thousands of images; a leak would go on growing after that.
"""

from __future__ import annotations

import sys

from tests.bench.common import pictures, stack, table
from visionpipe.schemas.jobs import Lane

IMAGES = 6000
CHUNK = 200
TOLERANCE_MB = 64.0


def measure(model: str, number: int) -> list[object]:
    """Measure one model."""
    with stack(model) as bench:
        images = pictures(model, CHUNK)
        seen: dict[int, float] = {}
        jobs: list[str] = []
        for done in range(CHUNK, number + 1, CHUNK):
            jobs.append(bench.submit_blobs(images, Lane.BULK))
            if len(jobs) > 2:
                bench.wait(jobs[-3], every_s=0.01)
            if done in (number // 10, number // 2, number):
                bench.wait(jobs[-1], every_s=0.01)
                seen[done] = bench.rss_mb()
    early, half, late = seen[number // 10], seen[number // 2], seen[number]
    return [model, number, early, half, late, "yes" if late - half <= TOLERANCE_MB else "NO"]


def main() -> None:
    """Print the table."""
    wanted = sys.argv[1:] or ["lenet-digits", "resnet18-generated"]
    rows = [measure(model, IMAGES) for model in wanted]
    table("Worker memory, MB", ["model", "images", "at 10 %", "at 50 %", "at 100 %", "flat"], rows)


if __name__ == "__main__":
    main()
