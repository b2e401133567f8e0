"""Speed of serving before, during and after compiling: python -m tests.bench.compiling [MODEL].

A worker is kept busy with small bulk jobs from the moment it is ready. It compiles once 20 s of computing have earned
it, in a process of low priority on the same cores, and swaps the compiled network in. An interactive image asked for in
the first second of all must not wait for any of that.
"""

from __future__ import annotations

import sys
import time

from tests.bench.common import Stack, pictures, stack, table
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import Lane

JOB = 8
"""Images in a job."""
IN_FLIGHT = 8
"""Jobs that wait or are computed at any time."""
AFTER_S = 20.0
GIVE_UP_S = 600.0
IDLE_EVERY_S = 0.5
PHASES = ("before", "during", "after")


def measure(model: str) -> tuple[dict[str, list[float]], dict[str, float], float]:
    """Serve through a whole compilation.

    Returns:
        The seconds at which images of each phase were done, the length of each phase, and the seconds that the first
        image took.
    """
    with stack(model, compiling="auto") as bench:
        images = pictures(model, JOB)
        began = time.monotonic()
        first = bench.submit_blobs(images[:1], Lane.INTERACTIVE)
        bench.wait(first)
        first_s = time.monotonic() - began
        done: dict[str, list[float]] = {phase: [] for phase in PHASES}
        spans = dict.fromkeys(PHASES, 0.0)
        phase, entered, looked = "before", time.monotonic(), 0.0
        jobs = [bench.submit_blobs(images, Lane.BULK) for _ in range(IN_FLIGHT)]
        while not (phase == "after" and time.monotonic() - entered > AFTER_S):
            if time.monotonic() - began > GIVE_UP_S:
                break
            if bench.ended(jobs[0]):
                jobs.pop(0)
                done[phase] += [time.monotonic()] * JOB
                jobs.append(bench.submit_blobs(images, Lane.BULK))
            if time.monotonic() - looked > IDLE_EVERY_S:
                looked = time.monotonic()
                now = _phase(bench, phase)
                if now != phase:
                    spans[phase], phase, entered = looked - entered, now, looked
            time.sleep(0.002)
        spans[phase] = time.monotonic() - entered
        for job in jobs:
            bench.wait(job)
        return done, spans, first_s


def _phase(bench: Stack, phase: str) -> str:
    code = run(bench.redis, calls.workers())[0].code
    if code.startswith("compiled"):
        return "after"
    return "during" if code.startswith("compiling") else phase


def main(model: str) -> None:
    """Print the table."""
    done, spans, first_s = measure(model)
    before = len(done["before"]) / max(spans["before"], 1e-9)
    rows = []
    for phase in PHASES:
        rate = len(done[phase]) / spans[phase] if spans[phase] else 0.0
        gaps = [late - early for early, late in zip(done[phase], done[phase][JOB:], strict=False)]
        longest = max(gaps, default=0.0)
        rows.append([phase, spans[phase], len(done[phase]), rate, rate / before if before else 0.0, longest])
    title = f"{model}: images/s around a compilation; the first image after ready took {1000 * first_s:.0f} ms"
    table(title, ["phase", "seconds", "images", "images/s", "of before", "longest gap between jobs, s"], rows)


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["resnet50-generated"]))
