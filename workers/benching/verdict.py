"""The sums: ceilings, what holds the service back, and what should be set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pydantic import Field

from visionpipe.runs.ceiling import Bound, shared_rate
from visionpipe.schemas.base import Schema
from workers.benching.measures import Bare, BatchTime, ThreadRate
from workers.benching.points import CrewRate

WITHIN = 0.03
"""Of two settings that differ by less than this in throughput, the smaller one is recommended."""
WITHIN_THREADS = 0.1
"""The same of decode threads, which are measured for a moment and take turns at one interpreter."""
WITHIN_WORKERS = 0.1
"""The same of workers, each of which takes memory of its own."""
HEADROOM = 1.25
"""Decode threads should do so many times what the network takes, so that it never waits for them."""


class BareCeiling(Schema):
    """What a pipeline that overlaps everything could do at best, from stages that were measured one by one."""

    images_per_s: float = Field(gt=0)
    """The ceiling, median of the rounds."""
    share: float | None = None
    """The service's rate divided by it, median of the rounds; absent where no folder was run."""
    share_range: tuple[float, float] | None = None
    """Smallest and largest of the rounds."""
    decode_per_s: float
    """Images a second that are read, decoded and preprocessed with nothing beside that."""
    forward_per_s: float
    """Images a second that the network does, in micro-batches of the worker's size."""
    core_ms: dict[str, float]
    """Milliseconds of one core that an image takes, by stage."""
    bound: Bound
    """Which stage sets the ceiling."""


class Advice(Schema):
    """What should be set."""

    max_batch: int | None = None
    """Smallest micro-batch within 3 % of the best throughput; absent where none was measured."""
    decode_threads: int | None = None
    """Fewest threads that keep the network fed, else the fewest within 10 % of the best rate."""
    workers: int | None = None
    """Fewest worker processes within 10 % of the best folder run; absent where only one number was tried."""


def bare_rate(bare: Bare, *, cores: float, on_cpu: bool) -> float:
    """Give the rate that a perfect pipeline of these stages has.

    On a CPU the stages share the cores, and the network may not be able to use all of them by itself: the sum of what
    an image takes from the cores is one bound, each stage's own rate another. On a GPU the cores only decode and
    finish, while the device computes.

    Args:
        bare: The stages.
        cores: Of the machine.
        on_cpu: Whether the network computes on them.
    """
    core_ms = bare.decode.core_ms + bare.postprocess.core_ms + (bare.forward.core_ms if on_cpu else 0.0)
    return shared_rate(cores, core_ms / 1000, bare.forward.images_per_s, bare.decode.images_per_s)


def bare_ceiling(
    rounds: Sequence[tuple[Bare, float | None]], *, cores: float, on_cpu: bool
) -> BareCeiling | None:  # fmt: skip
    """Sum up rounds of the bare stages, each with the folder run beside it.

    Args:
        rounds: The stages, and images a second of the folder run of the same round.
        cores: Of the machine.
        on_cpu: Whether the network computes on them.
    """
    if not rounds:
        return None
    rates = [bare_rate(bare, cores=cores, on_cpu=on_cpu) for bare, _ in rounds]
    shares = [run / best for (_, run), best in zip(rounds, rates, strict=True) if run is not None]
    typical = [bare for bare, _ in rounds]
    core_ms = {
        "decode": statistics.median(one.decode.core_ms for one in typical),
        "forward": statistics.median(one.forward.core_ms for one in typical),
        "postprocess": statistics.median(one.postprocess.core_ms for one in typical),
    }
    decode = statistics.median(one.decode.images_per_s for one in typical)
    forward = statistics.median(one.forward.images_per_s for one in typical)
    return BareCeiling(
        images_per_s=round(statistics.median(rates), 3),
        share=round(statistics.median(shares), 4) if shares else None,
        share_range=(round(min(shares), 4), round(max(shares), 4)) if shares else None,
        decode_per_s=round(decode, 3),
        forward_per_s=round(forward, 3),
        core_ms={stage: round(ms, 4) for stage, ms in core_ms.items()},
        bound=_bound(core_ms, decode, forward, on_cpu=on_cpu),
    )


def advise(
    batches: Sequence[BatchTime],
    threads: Sequence[ThreadRate],
    forward_per_s: float | None,
    crews: Sequence[CrewRate] = (),
) -> Advice:
    """Say what should be set, from what was measured of each size and number."""
    rates = [(one.workers, one.images_per_s) for one in crews]
    return Advice(
        max_batch=smallest_within([(one.batch, one.images_per_s) for one in batches]),
        decode_threads=enough_threads(threads, forward_per_s),
        workers=smallest_within(rates, WITHIN_WORKERS) if len(rates) > 1 else None,
    )


def smallest_within(rates: Sequence[tuple[int, float]], within: float = WITHIN) -> int | None:
    """Give the smallest setting whose rate is within a share of the best one; ``None`` where there is none."""
    best = max((rate for _, rate in rates), default=0.0)
    return min((setting for setting, rate in rates if rate >= (1 - within) * best), default=None)


def enough_threads(rates: Sequence[ThreadRate], forward_per_s: float | None) -> int | None:
    """Give the fewest decode threads that keep the network fed, else the fewest within 10 % of the best rate."""
    if forward_per_s is not None:
        enough = [one.threads for one in rates if one.images_per_s >= HEADROOM * forward_per_s]
        if enough:
            return min(enough)
    return smallest_within([(one.threads, one.images_per_s) for one in rates], WITHIN_THREADS)


def _bound(core_ms: dict[str, float], decode_per_s: float, forward_per_s: float, *, on_cpu: bool) -> Bound:
    if not on_cpu:
        return "forward" if forward_per_s <= decode_per_s else "decode"
    if core_ms["postprocess"] > max(core_ms["decode"], core_ms["forward"]):
        return "postprocess"
    return "forward" if core_ms["forward"] >= core_ms["decode"] else "decode"
