"""How fast the machines behind a run could be at best, and what holds it back, from what their workers used.

A pipeline that overlaps everything is held back by whatever runs out first. Where the network computes on a CPU,
decoding, computing and finishing share its cores: an image takes the sum of their times from them. Where it computes
on a GPU, the device and the cores work side by side, and the slower of them decides.

The costs are those of the run itself: what every image took of the cores and of the device while all went on at once.
Claims, outcomes and idleness are no part of the ceiling; they are what a run loses against it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Schema
from visionpipe.schemas.jobs import Usage, WorkerRecord

Bound = Literal["forward", "decode", "postprocess", "service", "waiting"]
"""What holds a run back: a stage, our own Python around them (``service``), or nothing inside the workers."""

USED_UP = 0.75
"""From this share on the cores or a device count as used up by the work itself."""
BUSY = 0.5
"""One interpreter that is busy with bookkeeping for this share of the time holds its worker back."""
MIN_IMAGES = 16
"""Fewer images say nothing about what one costs."""


class Ceiling(Schema):
    """A rate held against what the machines could do."""

    images_per_s: float = Field(gt=0)
    """The ceiling."""
    share: float = Field(ge=0)
    """The rate divided by it."""
    bound: Bound
    """What holds the run back."""
    machines: int = Field(ge=1)
    """How many took part."""
    core_ms: dict[str, float]
    """Milliseconds of one core that an image took, by stage; ``service`` is no part of the ceiling."""
    device_ms: float | None = None
    """Milliseconds of a GPU that an image took; absent on CPUs."""


class Watch:
    """Notes what one sitting did, and what workers used between the first and the last that was heard of each."""

    def __init__(self) -> None:
        self._settled, self._worked_s = 0, 0.0
        self._seen: dict[str, tuple[Usage, Usage]] = {}

    def observe(self, workers: Iterable[WorkerRecord]) -> None:
        """Take note of the live workers."""
        for worker in workers:
            if worker.usage is not None:
                first, _ = self._seen.get(worker.worker, (worker.usage, worker.usage))
                self._seen[worker.worker] = first, worker.usage

    def settle(self, images: int, worked_s: float) -> None:
        """Take note of images that got an outcome, ``worked_s`` after the sitting began."""
        self._settled, self._worked_s = self._settled + images, worked_s

    def ceiling(self) -> Ceiling | None:
        """Hold the sitting's rate against what its machines could do."""
        return ceiling_of(self.spent(), self._settled / self._worked_s) if self._settled else None

    def spent(self) -> list[Usage]:
        """Give what each worker used meanwhile, as far as it did anything."""
        differences = [last.since(first) for first, last in self._seen.values()]
        return [one for one in differences if one.images]


def ceiling_of(spent: Sequence[Usage], images_per_s: float) -> Ceiling | None:
    """Hold a rate against what the workers' costs would allow; ``None`` where too little was measured.

    Args:
        spent: What each worker used for its share of the work; workers of one machine share its cores.
        images_per_s: The rate of all of them together.
    """
    images = sum(one.images for one in spent)
    if images < MIN_IMAGES or images_per_s <= 0:
        return None
    hosts: dict[str, list[Usage]] = defaultdict(list)
    for one in spent:
        hosts[one.host].append(one)
    rates = [_rate_of(workers) for workers in hosts.values()]
    best = sum(rates)
    if not 0 < best < float("inf"):
        return None
    busy = _busy(spent, hosts, images_per_s / images)
    share = images_per_s / best
    gpu_s = sum(_longest_s(spent).values())
    return Ceiling(
        images_per_s=round(best, 3),
        share=round(share, 4),
        bound=bound_of(busy, share),
        machines=len(hosts),
        core_ms={
            "decode": round(1000 * sum(one.decode_s for one in spent) / images, 4),
            "forward": round(1000 * sum(one.forward_s for one in spent) / images, 4),
            "postprocess": round(1000 * sum(one.postprocess_s for one in spent) / images, 4),
            "service": round(1000 * sum(one.other_s for one in spent) / images, 4),
        },
        device_ms=round(1000 * gpu_s / images, 4) if gpu_s else None,
    )


def shared_rate(cores: float, core_s: float, *stage_rates: float) -> float:
    """Combine the bounds of a pipeline that overlaps everything.

    Args:
        cores: Of the machine.
        core_s: Seconds of one core that an image takes from them, of all stages that share them.
        stage_rates: Images a second of stages by themselves, which no overlap can exceed.
    """
    return min([cores / core_s if core_s > 0 else float("inf"), *stage_rates])


def bound_of(busy: dict[Bound, float], share: float) -> Bound:
    """Name what holds a pipeline back.

    Args:
        busy: For which share of the time each stage kept what it runs on busy, and our Python its interpreter.
        share: Of the ceiling that was reached.
    """
    stages: tuple[Bound, ...] = ("forward", "decode", "postprocess")
    most = max(stages, key=lambda stage: busy[stage])
    if share >= USED_UP or busy[most] >= USED_UP:
        return most
    return "service" if busy["service"] >= BUSY else "waiting"


def _rate_of(workers: Sequence[Usage]) -> float:
    """Images a second that one machine could do at the costs of its workers."""
    images = sum(one.images for one in workers)
    core_s = sum(one.decode_s + one.postprocess_s + (one.forward_s if _is_cpu(one) else 0.0) for one in workers)
    devices = [
        sum(one.images for one in workers if one.device == device) / device_s
        for (_, device), device_s in _longest_s(workers).items()
        if device_s > 0
    ]
    stages = [sum(devices)] if devices and not any(_is_cpu(one) for one in workers) else []
    return shared_rate(max(one.cores for one in workers), core_s / images, *stages)


def _busy(spent: Sequence[Usage], hosts: dict[str, list[Usage]], per_image: float) -> dict[Bound, float]:
    """Give the share of the time for which each stage kept busy what it runs on; ``per_image`` is 1 / seconds."""
    cores = sum(max(one.cores for one in workers) for workers in hosts.values())
    gpus = _longest_s(spent)
    on_cores = sum(one.forward_s for one in spent if _is_cpu(one)) / cores
    on_gpus = sum(gpus.values()) / len(gpus) if gpus else 0.0
    return {
        "forward": per_image * max(on_cores, on_gpus),
        "decode": per_image * sum(one.decode_s for one in spent) / cores,
        "postprocess": per_image * sum(one.postprocess_s for one in spent) / cores,
        # One interpreter, whatever the number of cores; others may have joined it late.
        "service": per_image * max(one.other_s for one in spent),
    }


def _longest_s(workers: Sequence[Usage]) -> dict[tuple[str, str], float]:
    """For how long each GPU was busy at least: workers of one GPU may have computed at the same time."""
    longest: dict[tuple[str, str], float] = defaultdict(float)
    for one in workers:
        if not _is_cpu(one):
            longest[one.host, one.device] = max(longest[one.host, one.device], one.device_s)
    return longest


def _is_cpu(one: Usage) -> bool:
    return one.device == "cpu"
