"""What a worker finds out by running its model before the first job: precision that pays, batch size, rate."""

from __future__ import annotations

import time

from workers.hosted import HostedModel
from workers.runtime import Runtime

TARGET_STEP_S = 0.25
"""A micro-batch should take no longer than this, since interactive work waits for it."""
MIN_STEP_S = 0.02
"""Below this, four images in fp32 are too quick to be worth rounding, or to be measured on a busy machine."""
WARM_IMAGES = 4
"""Images in the micro-batches that are timed at warm-up."""
MIN_SPEEDUP = 1.2
"""A reduced precision must be so much faster than fp32 to be worth its rounding."""


def keep_fp32_unless_slower(hosted: HostedModel, runtimes: dict[str, Runtime]) -> None:
    """Go back to fp32 where the reduced precision gains nothing, as with tiny networks."""
    reduced = hosted.device.precision
    reduced_s = _fastest_s(runtimes)
    hosted.set_precision("fp32")
    full_s = _fastest_s(runtimes)
    if full_s > MIN_STEP_S and reduced_s * MIN_SPEEDUP < full_s:
        hosted.set_precision(reduced)


def _fastest_s(runtimes: dict[str, Runtime]) -> float:
    return sum(_time_s(runtime, WARM_IMAGES) for runtime in runtimes.values())


def _time_s(runtime: Runtime, num_images: int) -> float:
    """Time one micro-batch: the fastest of several, since other workers may be starting beside this one."""
    times: list[float] = []
    while len(times) < 3 or (len(times) < 10 and sum(times) < 0.5):
        started = time.monotonic()
        runtime.warm_up(num_images)
        times.append(time.monotonic() - started)
    return min(times)


def warm_up(hosted: HostedModel, runtimes: dict[str, Runtime], max_batch: int | None) -> int:
    """Run every runtime several times, so that the first job pays for nothing; gives the largest micro-batch.

    Unless told otherwise that is the largest, up to the card's, whose step takes no longer than ``TARGET_STEP_S``.
    """
    for runtime in runtimes.values():
        runtime.warm_up(1)
    if max_batch is not None:
        return max_batch
    card_max = hosted.card.serving.max_batch
    chosen = min(WARM_IMAGES, card_max)
    while chosen < card_max:
        larger = min(2 * chosen, card_max)
        if max(_time_s(runtime, larger) for runtime in runtimes.values()) > TARGET_STEP_S:
            break
        chosen = larger
    return chosen


def expected_rate(runtimes: dict[str, Runtime], max_batch: int) -> float:
    """Guess images a second of the slowest task from one full micro-batch each."""
    slowest_s = max(_time_s(runtime, max_batch) for runtime in runtimes.values())
    return max_batch / slowest_s if slowest_s > 0 else 0.0
