"""What was seen of the service under load, and what it amounts to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from visionpipe.schemas.base import Schema

STAGES = ("queue", "fetch", "decode", "preprocess", "batch_wait", "forward", "postprocess")
"""In the order in which a request passes them."""


@dataclass(frozen=True)
class Sample:
    """One request."""

    latency_ms: float
    """From the moment it was meant to be sent to its answer; what went by for one that got none in time."""
    ended_s: float
    """When that was, from the beginning of the point."""
    code: str | None = None
    """Its error, where it had one."""
    timings: dict[str, float] = field(default_factory=dict)
    """What its item says, in milliseconds by stage, and its micro-batch."""
    unfinished: bool = False
    """Whether it had no answer when the point's time was over."""


KEPT_UP = 0.85
"""Answers that come at less than this share of the rate of requests are falling behind."""


class CrewRate(Schema):
    """One number of workers."""

    workers: int
    """How many served the model."""
    images_per_s: float
    """Images a second of folder runs; the median."""


class Point(Schema):
    """One load, and how the service bore it."""

    in_flight: int | None = None
    """Requests under way at any time; absent where they came at a rate."""
    offered_per_s: float | None = None
    """Requests a second that were to be sent, whatever became of those before."""
    sent_per_s: float | None = None
    """Those that were, which is somewhat more or less: they come at random moments."""
    window_s: float = Field(gt=0)
    """Seconds of that load."""
    done: int
    """Requests with a result."""
    errors: dict[str, int] = Field(default_factory=dict)
    """Those without one, by code."""
    unfinished: int = 0
    """Without an answer when the time was over; they count in the percentiles with the time they had waited."""
    images_per_s: float
    """Results a second."""
    p50_ms: float | None = None
    """Half of the requests took no longer."""
    p95_ms: float | None = None
    """95 % of them."""
    p99_ms: float | None = None
    """99 % of them."""
    stage_ms: dict[str, float] = Field(default_factory=dict)
    """Mean milliseconds a request spent in each stage; ``other`` is submission, commit, reply, and the client."""
    mean_batch: float | None = None
    """Images in the micro-batch of a request, on average."""

    @property
    def saturated(self) -> bool:
        """Whether requests came faster than they were answered."""
        return self.sent_per_s is not None and (self.unfinished > 0 or self.images_per_s < KEPT_UP * self.sent_per_s)


def closed_point(samples: Sequence[Sample], *, in_flight: int, window_s: float) -> Point:
    """Sum up a closed loop; answers that came after the window count in latencies alone."""
    done = sum(1 for one in samples if one.code is None and not one.unfinished and one.ended_s <= window_s)
    return _point(samples, in_flight=in_flight, window_s=window_s, images_per_s=done / window_s)


def open_point(samples: Sequence[Sample], *, offered_per_s: float, window_s: float) -> Point:
    """Sum up an open loop; its rate is that at which answers came, from the first to the last."""
    answered = [one for one in samples if one.code is None and not one.unfinished]
    return _point(
        samples,
        offered_per_s=offered_per_s,
        sent_per_s=round(_rate([one.ended_s - one.latency_ms / 1000 for one in samples], window_s), 3),
        window_s=window_s,
        images_per_s=_rate([one.ended_s for one in answered], window_s),
    )


def _rate(moments: Sequence[float], window_s: float) -> float:
    """How many there were a second, from the first to the last: neither end of the window cuts anything off."""
    span_s = max(moments) - min(moments) if moments else 0.0
    return (len(moments) - 1) / span_s if span_s > 0 else len(moments) / window_s


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, between the two nearest ones."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _point(
    samples: Sequence[Sample],
    *,
    window_s: float,
    images_per_s: float,
    in_flight: int | None = None,
    offered_per_s: float | None = None,
    sent_per_s: float | None = None,
) -> Point:
    good = [one for one in samples if one.code is None and not one.unfinished]
    # A request that has waited for so long and has no answer is worse than any that has one.
    latencies = [one.latency_ms for one in samples if one.code is None]
    quantiles = {f"p{share}_ms": round(quantile(latencies, share / 100), 3) for share in (50, 95, 99) if latencies}
    return Point(
        in_flight=in_flight,
        offered_per_s=offered_per_s,
        sent_per_s=sent_per_s,
        window_s=round(window_s, 3),
        done=len(good),
        errors=dict(Counter(one.code for one in samples if one.code is not None)),
        unfinished=sum(one.unfinished for one in samples),
        images_per_s=round(images_per_s, 3),
        **quantiles,
        stage_ms=split_ms(good),
        mean_batch=round(sum(one.timings.get("batch", 1) for one in good) / len(good), 2) if good else None,
    )


def split_ms(samples: Sequence[Sample]) -> dict[str, float]:
    """Average where requests' time went; ``other`` is what no stage accounts for."""
    timed = [one for one in samples if one.timings]
    if not timed:
        return {}
    split = {stage: sum(one.timings.get(f"{stage}_ms", 0.0) for one in timed) / len(timed) for stage in STAGES}
    split["other"] = sum(one.latency_ms for one in timed) / len(timed) - sum(split.values())
    return {stage: round(ms, 3) for stage, ms in split.items()}
