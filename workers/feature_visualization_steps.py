"""The long methods of feature visualization, step by step.

Shape suffixes: N images, C channels, H height, W width; 1 one image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, repeat
from typing import TypeVar

from PIL import Image
from torch import Tensor

from models.visualization import Ascent, Deconvnet, Peak, peaks
from models.visualization.pictures import cropped, signed_to_rgb, unit_to_rgb
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.results import StopReason
from workers.feature_visualization_network import InspectedNetwork
from workers.feature_visualization_views import PREVIEW_UNITS, View, answer, options_of, preview
from workers.runtime import Answer
from workers.work import Work

STEP_VALUES = 2**16
"""Input values of the units that climb together in one device step; the same on every machine, so that answers are."""
PREVIEW_EVERY_S = 2.0
"""How often a climb shows its pictures."""

Steps = Generator[Progress, None, Answer]
T = TypeVar("T")


@dataclass
class Clock:
    """How long an image's work has computed, and whether it should stop now."""

    work: Work
    spent_s: float = 0.0
    steps: int = 0

    def run(self, call: Callable[[], T]) -> T:
        """Make one device step."""
        started = time.monotonic()
        try:
            return call()
        finally:
            self.spent_s += time.monotonic() - started
            self.steps += 1

    @property
    def reason(self) -> StopReason | None:
        """Why it should stop, if it should."""
        if self.work.stopping:
            return self.work.stop_reason or "cancelled"
        budget_s = options_of(self.work).time_budget_s
        return "time_budget" if budget_s is not None and self.spent_s >= budget_s else None

    def eta_s(self, left: float) -> float:
        """Guess the seconds to go, for so many times what is done."""
        budget_s = options_of(self.work).time_budget_s
        return self.spent_s * left if budget_s is None else min(self.spent_s * left, max(0.0, budget_s - self.spent_s))


def deconvnet(network: InspectedNetwork, work: Work, x_1CHW: Tensor, original: Image.Image | None) -> Steps:
    """Project each unit's strongest activation back, one in each step.

    Stopped, all units have their activation and place, and those whose turn came their pattern.
    """
    options, clock = options_of(work), Clock(work)
    projection, views = clock.run(partial(_forward, network, work, x_1CHW))
    if not all(math.isfinite(view.peak.activation) for view in views):
        return ArithmeticError(f"{network.hosted.card.name} gave activations that are not finite")
    for done, view in enumerate(views):
        if clock.reason is not None:
            break
        yield Progress(done=done, total=len(views), eta_s=clock.eta_s((len(views) - done) / (done + 1)))
        if clock.reason is not None:
            break
        if view.peak.activation > 0:
            clock.run(partial(_project, projection, view))
        view.is_done = True
    reason = None if all(view.is_done for view in views) else clock.reason
    return partial(
        answer,
        work,
        views,
        preprocessing=network.preprocessing,
        original=original if options.patches else None,
        reason=reason or "finished",
        steps=clock.steps,
    )


def climb(network: InspectedNetwork, work: Work) -> Steps:
    """Climb to all units at once, a few of one layer in each step; stopped, each is as high as it has come."""
    clock, plan = Clock(work), network.plan(options_of(work))
    ascents = clock.run(partial(_ascents, network, work))
    shown_at, shown = 0.0, None
    for ascent in chain.from_iterable(repeat(ascents, plan.steps)):
        clock.run(ascent.step)
        if not all(math.isfinite(peak.activation) for peak in ascent.peaks):
            return ArithmeticError(f"{network.hosted.card.name} gave activations that are not finite")
        if clock.reason is not None:
            break
        if clock.spent_s - shown_at >= PREVIEW_EVERY_S:
            picture = preview(_climbed(ascents, PREVIEW_UNITS))
            shown_at, shown = clock.spent_s, work.try_keep(picture, "image/jpeg") or shown
        yield _climb_progress(clock, ascents, plan.steps, shown)
        if clock.reason is not None:
            break
    reason = None if ascents[-1].done == plan.steps else clock.reason
    if reason is None:
        yield from _measured(clock, ascents, plan.steps, shown)
    for ascent in ascents:
        ascent.settle()
    steps = ascents[-1].done
    return lambda: answer(work, _climbed(ascents), preprocessing=None, reason=reason or "finished", steps=steps)


def filter_views(network: InspectedNetwork, work: Work) -> list[View]:
    """Show the filters of the layers asked for."""
    options = options_of(work)
    return [
        View(Peak(layer, channel, math.nan, None), pattern=signed_to_rgb(network.filters(layer)[channel]))
        for layer in network.layers(options)
        for channel in network.channels(layer, options)
    ]


def _measured(clock: Clock, ascents: list[Ascent], steps: int, shown: ArtifactRef | None) -> Iterator[Progress]:
    for ascent in ascents:
        if clock.work.stopping:
            return
        clock.run(ascent.measure)
        yield _climb_progress(clock, ascents, steps, shown)


def _forward(network: InspectedNetwork, work: Work, x_1CHW: Tensor) -> tuple[Deconvnet, list[View]]:
    options = options_of(work)
    x_1CHW = x_1CHW.to(network.device)
    projection = Deconvnet(network.survey, network.layers(options), x_1CHW)
    (units,) = peaks(projection.maps, channels=options.channels, most=options.max_channels, selection=options.selection)
    return projection, [View(unit, network.box_xyxy(unit, x_1CHW)) for unit in units]


def _project(projection: Deconvnet, view: View) -> None:
    pattern_CHW = projection.project(view.peak)
    if view.box_xyxy is not None:
        left, top, right, bottom = map(int, view.box_xyxy)
        pattern_CHW = cropped(pattern_CHW, (left, top, right, bottom))
    view.pattern = signed_to_rgb(pattern_CHW)


def _ascents(network: InspectedNetwork, work: Work) -> list[Ascent]:
    options, plan = options_of(work), network.plan(options_of(work))
    together = max(1, STEP_VALUES // (len(plan.mean) * plan.size_hw[0] * plan.size_hw[1]))
    return [
        Ascent(network.survey, layer, channels[start : start + together], plan, network.device)
        for layer in network.layers(options)
        for channels in [network.channels(layer, options)]
        for start in range(0, len(channels), together)
    ]


def _climbed(ascents: list[Ascent], most: int | None = None) -> list[View]:
    pictures = (
        (peak, pixels_CHW)
        for ascent in ascents
        for peak, pixels_CHW in zip(ascent.peaks, ascent.pixels_NCHW, strict=True)
    )
    return [View(peak, pattern=unit_to_rgb(pixels_CHW)) for peak, pixels_CHW in islice(pictures, most)]


def _climb_progress(clock: Clock, ascents: list[Ascent], steps: int, shown: ArtifactRef | None) -> Progress:
    done, whole = ascents[-1].done, sum(ascent.done for ascent in ascents)
    strengths = [peak.activation for ascent in ascents for peak in ascent.peaks]
    return Progress(
        done=done,
        total=steps,
        eta_s=clock.eta_s((steps * len(ascents) - whole) / max(1, whole)),
        note=f"{len(strengths)} units, activations up to {max(strengths):.3g}",
        preview=shown,
    )
