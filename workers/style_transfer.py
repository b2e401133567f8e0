"""Style transfer: a long job that paints an evaluation at a time and hands over its best whenever it must."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property

import torch

from models.card_tables import StyleTransferDefaults
from models.errors import ModelError
from models.gatys import DEFAULT_LAYERS, Encoder, Evaluated, Objective, Painting, Plan, Style, Weights
from models.gatys.pictures import to_tensor
from models.parity import synthetic
from visionpipe.errors import ModelLoadError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import StyleTransferOptions
from visionpipe.schemas.results import StopReason, StyleTransferResult
from workers import style_wishes
from workers.encoding import png
from workers.hosted import HostedModel
from workers.runtime import Answer, Runtime
from workers.style_results import curve, losses, preview
from workers.work import Work

TARGET_STEP_S = 2.0
"""A device step should take no longer than this, since interactive work waits for it."""
MIN_STEP_PIXELS, MAX_STEP_PIXELS = 2**16, 2**20
"""Bounds on the pixels of one device step."""
WARM_SIDE_PX, MEASURE_SIDE_PX = 64, 160
"""Sides of the pictures at warm-up."""


@dataclass
class _Run:
    """A painting in progress, and what it has taken so far."""

    work: Work
    painting: Painting
    spent_s: float = 0.0
    preview: ArtifactRef | None = None

    @property
    def step_s(self) -> float:
        """Mean cost of an evaluation; that of measuring content and styles is spread over them."""
        return self.spent_s / max(1, len(self.painting.history))

    @property
    def reason(self) -> StopReason | None:
        """Why it should stop now, if it should; only once there is something to hand over."""
        if self.painting.best is None:
            return None
        if self.work.stopping:
            return self.work.stop_reason or "cancelled"
        budget_s = _options(self.work).time_budget_s
        return "time_budget" if budget_s is not None and self.spent_s >= budget_s else None

    @torch.enable_grad()
    def step(self, steps: Generator[Evaluated | None, None, None]) -> Evaluated | StopReason | None:
        """Make one device step, or say why there is none left."""
        started = time.monotonic()
        told: Evaluated | StopReason | None = next(steps, "finished")
        self.spent_s += time.monotonic() - started
        return "converged" if told == "finished" and self.painting.converged else told


class StyleTransferRuntime(Runtime):
    """Optimizes pixels against features of the fp32 network; nothing of it is computed in a reduced precision."""

    is_long = True

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self.s_per_pixel = 0.0
        """What an evaluation costs, from warm-up and from the paintings since."""

    @cached_property
    def encoder(self) -> Encoder:
        """The network's features."""
        preprocessing = self.hosted.card.preprocess
        return Encoder(self.hosted.master, mean=preprocessing.mean, std=preprocessing.std)

    def prepare(self, work: Work) -> None:
        """Bring content and styles to their sizes; the pictures that the options name are read here."""
        assert work.image is not None
        options = _options(work)
        objective = self._objective(style_wishes.weights(options, self._defaults))
        work.prepared = style_wishes.pictures(work.image.image, options, work.read, least=objective.least_px)
        work.num_pixels = work.prepared.num_values

    def steps(self, work: Work) -> Generator[Progress, None, Answer]:
        """Paint, a device step at a time: one evaluation, or one tile of it where the picture is large."""
        run = _Run(work, self._painting(work))
        steps = run.painting.run()
        reason: StopReason | None = None
        while reason is None:
            told = run.step(steps)
            if isinstance(told, str):
                reason = told
            elif work.stopping and run.painting.best is None:
                # There is nothing to hand over before the first evaluation, and there will be no second call.
                continue
            elif isinstance(told, Evaluated) and not math.isfinite(run.painting.history[0].terms.total):
                return ArithmeticError(f"{self.hosted.card.name} gave features that are not finite")
            else:
                self._preview(run, told)
                yield self._progress(run)
                reason = run.reason
        self._learn(run)
        return self._answer(run, reason)

    def estimate(self, work: Work) -> Progress:
        """Tell the cost from what evaluations have cost per pixel so far."""
        options = _options(work)
        eta_s = self._eta_s(work)
        height, width = work.prepared.content.shape[-2:]
        note = f"{width}x{height}, {options.steps} steps of about {1000 * eta_s / (options.steps + 1):.0f} ms"
        if options.time_budget_s is not None:
            eta_s = min(eta_s, options.time_budget_s)
        return Progress(total=options.steps, eta_s=eta_s, note=note)

    def warm_up(self, num_images: int) -> None:
        """Evaluate the loss of a small picture; the first time also measure what a pixel costs."""
        try:
            if not self.s_per_pixel:
                self._evaluate(MEASURE_SIDE_PX)
                self.s_per_pixel = min(self._evaluate(MEASURE_SIDE_PX) for _ in range(2)) / MEASURE_SIDE_PX**2
            self._evaluate(WARM_SIDE_PX)
        except ModelError as error:
            raise ModelLoadError(f"{self.hosted.card.name}: style_transfer: {error.message}") from error

    def parity(self, precision: str) -> bool:
        """Every precision agrees: painting always computes in fp32."""
        return True

    @property
    def _defaults(self) -> StyleTransferDefaults:
        return self.hosted.card.style_transfer or DEFAULT_LAYERS

    def _objective(self, weights: Weights) -> Objective:
        max_pixels = TARGET_STEP_S / self.s_per_pixel if self.s_per_pixel else MAX_STEP_PIXELS
        return Objective(self.encoder, weights, max_pixels=int(min(max(max_pixels, MIN_STEP_PIXELS), MAX_STEP_PIXELS)))

    def _painting(self, work: Work) -> Painting:
        options = _options(work)
        objective = self._objective(style_wishes.weights(options, self._defaults))
        return Painting(objective, work.prepared.content, work.prepared.styles, style_wishes.plan(options))

    @torch.enable_grad()
    def _evaluate(self, side_px: int) -> float:
        """Evaluate the loss of a square once; gives the seconds of that alone."""
        picture = to_tensor(synthetic(0).resize((side_px, side_px)))
        objective = self._objective(
            Weights(content_layers=self._defaults.content_layers, style_layers=self._defaults.style_layers)
        )
        started = time.monotonic()
        for told in Painting(objective, picture, [Style(picture)], Plan(steps=0)).run():
            if told is not None:
                break
            started = time.monotonic()
        return time.monotonic() - started

    def _preview(self, run: _Run, told: Evaluated | None) -> None:
        every = _options(run.work).preview_every
        if told is not None and every and told.step % every == 0:
            run.preview = run.work.try_keep(preview(run.painting.picture()), "image/jpeg") or run.preview

    def _progress(self, run: _Run) -> Progress:
        history, best = run.painting.history, run.painting.best
        if best is None:
            return self.estimate(run.work)
        options = _options(run.work)
        done = history[-1].step
        eta_s = (options.steps - done) * run.step_s
        if options.time_budget_s is not None:
            eta_s = min(eta_s, max(0.0, options.time_budget_s - run.spent_s))
        fall = 1 - best.terms.total / max(history[0].terms.total, 1e-12)
        return Progress(
            done=done,
            total=options.steps,
            eta_s=eta_s,
            note=f"loss {best.terms.total:.3g}, {fall:.0%} below that of the initial image",
            preview=run.preview,
            details={"losses": curve(history), "step_ms": round(1000 * run.step_s, 1)},
        )

    def _eta_s(self, work: Work) -> float:
        pictures: style_wishes.Pictures = work.prepared
        evaluations = (_options(work).steps + 1) * self._painting(work).cost_pixels
        # Content and styles are measured by forward passes alone, about a third of an evaluation.
        targets = [pictures.content, *(style.picture for style in pictures.styles)]
        return self.s_per_pixel * (evaluations + sum(picture[0, 0].numel() for picture in targets) / 3)

    def _learn(self, run: _Run) -> None:
        """Let the next estimate start from what this painting has cost."""
        if len(run.painting.history) > 1:
            self.s_per_pixel += (run.step_s / run.painting.cost_pixels - self.s_per_pixel) / 2

    def _answer(self, run: _Run, reason: StopReason) -> Answer:
        pixels, best, history = run.painting.picture(), run.painting.best, run.painting.history
        assert best is not None
        work, step_ms = run.work, 1000 * run.step_s
        return lambda: StyleTransferResult(
            image_size_wh=work.size_wh,
            partial=reason not in ("finished", "converged"),
            picture=work.keep(png(pixels), "image/png"),
            size_wh=(pixels.shape[1], pixels.shape[0]),
            losses=losses(history[: best.step + 1]),
            steps=history[-1].step,
            step_ms=step_ms,
            stopped=reason,
        )


def _options(work: Work) -> StyleTransferOptions:
    assert isinstance(work.request.options, StyleTransferOptions)
    return work.request.options


RUNTIME = StyleTransferRuntime
