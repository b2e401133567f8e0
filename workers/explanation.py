"""Explanation: a long job that attributes a micro-batch at a time and hands over its best whenever it must.

Shape suffixes: 1 one image, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from models.attribution import Attributor, Question, attributor
from models.attribution.aside import aside
from models.attribution.attributor import gradient
from models.attribution.methods import METHODS
from models.attribution.similarity import import_libraries
from models.errors import UnsupportedOption
from models.features import check_layer
from models.preprocess import Preprocess
from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.results import ClassScore, ExplanationResult
from workers.explanation_input import Prepared, options_of, prepare
from workers.explanation_results import keep_attribution, keep_segmentation
from workers.explanation_run import Found, Run, has_checks
from workers.hosted import HostedModel
from workers.labels import class_ids, label_of
from workers.runtime import Answer, Runtime
from workers.work import Work

logger = logging.getLogger("visionpipe.explanation")

WARM_SIDE_PX = 64
"""Side of the picture at warm-up where the network takes any size."""


class ExplanationRuntime(Runtime):
    """Attributes a class's logit to pixels; gradients are those of the fp32 network."""

    is_long = True

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self.classifier = hosted.classifier(hosted.master)
        self.is_differentiable = True
        self.s_per_value: dict[bool, float] = {}
        """What an image costs per value of its input, with a gradient and without, from warm-up and since."""

    def prepare(self, work: Work) -> None:
        """Make the input and what the method needs, and refuse what the network or the method cannot do."""
        card, options = self.hosted.card, options_of(work)
        if self.hosted.hooks.preprocess is not None:
            raise InvalidRequestError(
                f"Expected a model whose card says how pictures become inputs, {card.name!r} has a preprocess hook of "
                "its own: where its input lies in the picture is not known. Describe it in the card's [preprocess].",
                model=card.name,
            )
        if METHODS[options.method].differentiates and not self.is_differentiable:
            raise InvalidRequestError(
                f"Expected a network that can be differentiated for {options.method}, {card.name!r} cannot. Use "
                "occlusion, lime or kernel_shap.",
                fields=["options.method"],
            )
        if options.layer is not None:
            check_layer(self.hosted.master, options.layer)
        if has_checks(work):
            import_libraries()
        targets = None if options.targets is None else tuple(dict.fromkeys(class_ids(card, options.targets)))
        work.prepared = prepare(work, card.preprocess, targets=targets, max_batch=card.serving.max_batch)
        work.num_pixels = work.prepared.x_1CHW.numel()
        # The settings are checked against this image when an attributor is made.
        attributor(self._question(work, 0), work.prepared.settings)

    def steps(self, work: Work) -> Generator[Progress, None, Answer]:
        """Find the classes, then explain one after the other, a device step at a time."""
        started = time.monotonic()
        probabilities_K = self._probabilities(work.prepared.x_1CHW)
        if not all(map(math.isfinite, probabilities_K.tolist())):
            return ArithmeticError(f"{self.hosted.card.name} gave logits that are not finite")
        targets = self._targets(work, probabilities_K)
        run = Run(work, targets, self._costs(work, len(targets)), time.monotonic() - started)
        memo: dict[str, Any] = {}
        for target in run.targets:
            question = self._question(work, target, targets=tuple(run.targets), memo=memo)
            method = attributor(question, work.prepared.settings)
            if run.halted and not method.has_estimate:
                break
            score = min(max(float(probabilities_K[target]), 0.0), 1.0)
            named = ClassScore(class_id=target, label=label_of(self.hosted.card, target), score=score)
            yield from self._attribute(run, method, named)
            if has_checks(work) and not run.halted:
                yield from self._check(run, question)
        return self._answer(run)

    def estimate(self, work: Work) -> Progress | None:
        """Tell the cost from what images have cost per value so far."""
        prepared: Prepared = work.prepared
        method = attributor(self._question(work, 0), prepared.settings)
        number = method.expected * (len(prepared.targets or (0,)) if method.differentiates else 1)
        s_per_value = self.s_per_value.get(method.differentiates)
        if s_per_value is None:
            return Progress(total=number, note=f"{prepared.settings.method}: about {number:,} evaluations")
        eta_s = s_per_value * number * work.num_pixels
        note = f"{prepared.settings.method}: {number:,} evaluations of about {1000 * eta_s / number:.2g} ms"
        budget_s = options_of(work).time_budget_s
        return Progress(total=number, eta_s=eta_s if budget_s is None else min(eta_s, budget_s), note=note)

    def warm_up(self, num_images: int) -> None:
        """Run a blank picture forward and back, and note what that costs.

        A network that cannot be differentiated is still explained by methods that only perturb.
        """
        height, width = self.hosted.card.preprocess.input_size_hw or (WARM_SIDE_PX, WARM_SIDE_PX)
        blank_1CHW = Preprocess(self.hosted.card.preprocess)(Image.new("RGB", (width, height)))[None]
        blank_1CHW = blank_1CHW.to(self.hosted.device.torch_device)
        try:
            gradient(self.classifier, blank_1CHW, 0)
        except (UnsupportedOption, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            self.is_differentiable = False
            logger.warning("%s is explained by perturbation only: %s", self.hosted.card.name, error)
        for differentiates in (True, False) if self.is_differentiable else (False,):
            started = time.perf_counter()
            if differentiates:
                gradient(self.classifier, blank_1CHW, 0).cpu()
            else:
                self._probabilities(blank_1CHW)
            self.s_per_value[differentiates] = (time.perf_counter() - started) / blank_1CHW.numel()

    def parity(self, precision: str) -> bool:
        """Every precision agrees: gradients are fp32, and perturbing asks the network that answers."""
        return True

    def _attribute(self, run: Run, method: Attributor, named: ClassScore) -> Generator[Progress, None, None]:
        before_s = run.spent_s
        name = f"{run.work.prepared.settings.method} of {named.label!r}"
        yield from run.drive(method.steps(), lambda: method.has_estimate, lambda: name)
        run.found.append(Found(named, method))
        run.stages_done += 1
        if method.evaluations > 1:
            cost = (run.spent_s - before_s) / method.evaluations / run.work.num_pixels
            self.s_per_value[method.differentiates] = cost

    def _check(self, run: Run, question: Question) -> Generator[Progress, None, None]:
        from workers.explanation_checks import Checks

        found = run.found[-1]
        fit = aside(lambda: found.explained, (0, 1))
        yield from run.drive(fit, lambda: True, lambda: "making the map", is_needed=True)
        if not run.halted:
            checks = found.checks = Checks(run.work, question, run.work.prepared.settings, found.explained)
            # A check that is cut short is left out, so there is nothing to wait for.
            yield from run.drive(checks.steps(), lambda: True, lambda: checks.note)
        run.stages_done += 1

    def _costs(self, work: Work, num_targets: int) -> list[float]:
        """Expect what each stage takes, relative to the others."""
        options = options_of(work)
        method = attributor(self._question(work, 0), work.prepared.settings)
        quick = self.s_per_value.get(False, 1.0)
        each = method.expected * self.s_per_value.get(method.differentiates, quick)
        depths = 0 if options.sanity_check is None else options.sanity_check.max_depths
        checks = [2 * options.curve_steps * options.curves * quick + depths * each] if has_checks(work) else []
        # What perturbing gives serves all classes.
        rest = [each if method.differentiates else 0.0, *checks]
        return [each, *checks, *rest * (num_targets - 1)]

    def _question(self, work: Work, target: int, **more: Any) -> Question:
        prepared: Prepared = work.prepared
        card, device = self.hosted.card, self.hosted.device.torch_device
        if self.hosted.device.precision != "fp32":
            quick = self.hosted.classifier()
            more["forward"] = lambda x_NCHW: quick(self.hosted.to_input(x_NCHW))
        more["is_awaited"] = lambda: work.way.is_lively
        return prepared.question(self.classifier, target, preprocessing=card.preprocess, device=device, **more)

    def _probabilities(self, x_1CHW: Tensor) -> Tensor:
        with torch.no_grad():
            logits_1K: Tensor = self.classifier(x_1CHW.to(self.hosted.device.torch_device))
        return logits_1K[0].float().softmax(0).cpu()

    def _targets(self, work: Work, probabilities_K: Tensor) -> list[int]:
        wanted: tuple[int, ...] | None = work.prepared.targets
        if wanted is None:
            return [int(probabilities_K.argmax())]
        if max(wanted) >= len(probabilities_K):
            raise InvalidRequestError(
                f"Expected classes of {self.hosted.card.name!r} from 0 to {len(probabilities_K) - 1}, "
                f"got {max(wanted)}.",
                fields=["options.targets"],
            )
        return list(wanted)

    def _answer(self, run: Run) -> Answer:
        work, preprocessing = run.work, self.hosted.card.preprocess

        def answer() -> ExplanationResult:
            first = run.found[0].explained
            work.step_aside()
            return ExplanationResult(
                image_size_wh=work.size_wh,
                partial=run.reason is not None,
                method=work.prepared.settings.method,
                attributions=[keep_attribution(work, found, preprocessing) for found in run.found],
                segmentation=keep_segmentation(work, first, preprocessing),
                layer=first.layer,
                evaluations=run.evaluations,
                stopped=run.reason or "finished",
            )

        return answer


RUNTIME = ExplanationRuntime
