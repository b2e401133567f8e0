"""Adversarial pictures: a long job of micro-batches, in which restarts and epsilons share the passes.

Shape suffixes: N pictures, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from models.attacks import Goal, LevelClassifier, Plan, Search, Subject
from models.preprocess import Preprocess
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import AdversarialOptions
from visionpipe.schemas.results import StopReason
from workers.adversarial_costs import Costs
from workers.adversarial_results import Measured, Outcome, finished, says
from workers.hosted import HostedModel
from workers.labels import class_ids
from workers.runtime import Answer, Runtime
from workers.work import Work

WARM_SIDE_PX = 64
"""Side of the picture at warm-up where the network takes any size."""


@dataclass(frozen=True)
class _Prepared:
    """One picture, and what the options want of it."""

    subject: Subject
    true_class: int | None
    target: int | None


@dataclass
class _Run:
    """An attack in progress, what the network said before (K,), and what the attack has taken so far."""

    work: Work
    search: Search
    before: Tensor
    spent_s: float = 0.0
    done: int = 0
    measured: dict[int, Measured] = field(default_factory=dict)

    @property
    def reason(self) -> StopReason | None:
        """Why it should stop now, if it should; only once there is something to hand over."""
        if not self.found:
            return None
        if self.work.stopping:
            return self.work.stop_reason or "cancelled"
        budget_s = _options(self.work).time_budget_s
        return "time_budget" if budget_s is not None and self.spent_s >= budget_s else None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to search."""
        return self.done == self.search.plan.num_micro_batches(self.search.max_batch)

    @property
    def found(self) -> list[int]:
        """The epsilons for which there is a picture so far."""
        return [which for which, candidate in enumerate(self.search.best) if candidate is not None]


class AdversarialRuntime(Runtime):
    """Follows the gradient of the fp32 network; what counts is what the answering one says of the stored file."""

    is_long = True

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self._preprocess = Preprocess(hosted.card.preprocess)
        self.costs = Costs(hosted.device.torch_device, hosted.card.serving.max_batch)

    @cached_property
    def exact(self) -> LevelClassifier:
        """The differentiable network, in fp32."""
        how, hosted = self.hosted.card.preprocess, self.hosted
        exact = LevelClassifier(hosted.classifier(hosted.master), mean=how.mean, std=how.std)
        return exact.to(hosted.device.torch_device)

    @property
    def judge(self) -> LevelClassifier | None:
        """The answering network, where its arithmetic is not that of the differentiable one."""
        if self.hosted.device.precision == "fp32":
            return None
        how, classify = self.hosted.card.preprocess, self.hosted.classifier()
        judge = LevelClassifier(lambda x: classify(self.hosted.to_input(x)), mean=how.mean, std=how.std)
        return judge.to(self.hosted.device.torch_device)

    def prepare(self, work: Work) -> None:
        """Resize the picture as the card says, and find the classes that the options name."""
        assert work.image is not None
        self._check_geometry(InvalidRequestError)
        options, card = _options(work), self.hosted.card
        subject = Subject.of(work.image.image, card.preprocess)
        true_class, target = (
            None if named is None else class_ids(card, [named])[0] for named in (options.true_class, options.target)
        )
        if target is not None and target == true_class:
            raise InvalidRequestError(
                f"Expected a target other than the right class, got class {target} for both.", fields=["target"]
            )
        work.prepared = _Prepared(subject, true_class, target)
        work.num_pixels = subject.levels.numel()

    def steps(self, work: Work) -> Generator[Progress, None, Answer]:
        """Attack, a micro-batch at a time; then ask the answering network about each picture, one at a time."""
        prepared: _Prepared = work.prepared
        before_K = self._probabilities(prepared.subject.levels)
        goal = self._goal(prepared, before_K)
        if goal.target is None and int(before_K.argmax()) != goal.true_class:
            return self._unchanged(work, goal, before_K)
        run = _Run(work, self._search(work, goal), before_K)
        micro_batches = run.search.run()
        while run.reason is None and self._advance(run, micro_batches):
            # Once it should stop there will be no second call, though there may be nothing to hand over yet.
            if not work.stopping and run.reason is None:
                yield self._progress(run)
        reason = None if run.is_whole else run.reason
        for which in run.found:
            run.measured[which] = self._measure(run, which)
            if not work.stopping:
                yield self._progress(run)
        if reason is None:
            self.costs.learn(run.search.plan, work.num_pixels, run.spent_s)
        return self._answer(run, reason or "finished")

    def estimate(self, work: Work) -> Progress:
        """Tell the cost from what passes have cost per value so far."""
        options, plan = _options(work), plan_of(_options(work))
        eta_s = self.costs.expect_s(plan, work.num_pixels)
        total = plan.num_micro_batches(self.costs.max_batch(work.num_pixels))
        note = f"{plan.method} ({plan.norm}), {len(plan.epsilons)} x {plan.restarts} x {_num_steps(plan)} steps"
        budget_s = options.time_budget_s
        return Progress(total=total, eta_s=eta_s if budget_s is None else min(eta_s, budget_s), note=note)

    def warm_up(self, num_images: int) -> None:
        """Make one step on a grey picture; the first time also measure what passes cost."""
        self._check_geometry(ModelLoadError)
        height, width = self.hosted.card.preprocess.input_size_hw or (WARM_SIDE_PX, WARM_SIDE_PX)
        subject = Subject.of(Image.new("RGB", (width, height)), self.hosted.card.preprocess)
        before_K = self._probabilities(subject.levels)
        if len(before_K) < 2:
            raise ModelLoadError(f"Expected at least two classes to lead between, {self.hosted.card.name} has one.")
        goal = Goal(int(before_K.argmax()))
        if not self.costs.s_per_value:
            self.costs.count(self.exact, subject)
            self.costs.s_per_value = min(self._time_s(subject, goal) for _ in range(3)) / subject.levels.numel()
        self._time_s(subject, goal)

    def parity(self, precision: str) -> bool:
        """Every precision agrees: gradients are always computed in fp32, and pictures judged in the one in use."""
        return True

    def _check_geometry(self, error: type[InvalidRequestError | ModelLoadError]) -> None:
        if self.hosted.hooks.preprocess is not None:
            raise error(
                f"Expected {self.hosted.card.name} to describe its preprocessing in its card, got a preprocess hook: "
                "which file would give an attacked input cannot be known."
            )

    @torch.inference_mode()
    def _probabilities(self, levels_CHW: Tensor) -> Tensor:
        """Ask the answering network about one picture, alone, as a single classification does."""
        inputs_1CHW = self.hosted.to_input(self._preprocess.normalise(levels_CHW)[None])
        probabilities_K: Tensor = self.hosted.classifier()(inputs_1CHW)[0].float().softmax(dim=0).cpu()
        if not bool(probabilities_K.isfinite().all()):
            raise ArithmeticError(f"{self.hosted.card.name} gave logits that are not finite")
        return probabilities_K

    def _goal(self, prepared: _Prepared, before_K: Tensor) -> Goal:
        says_now, num_classes = int(before_K.argmax()), len(before_K)
        for field_name, chosen in (("target", prepared.target), ("true_class", prepared.true_class)):
            if chosen is not None and chosen >= num_classes:
                raise InvalidRequestError(
                    f"Expected a class from 0 to {num_classes - 1}, got {chosen}.", fields=[field_name]
                )
        if prepared.target == says_now:
            raise InvalidRequestError(
                f"Expected a target other than what the network says already, got class {says_now}.", fields=["target"]
            )
        return Goal(says_now if prepared.true_class is None else prepared.true_class, prepared.target)

    def _search(self, work: Work, goal: Goal) -> Search:
        subject: Subject = work.prepared.subject
        return Search(
            self.exact,
            subject.levels,
            goal,
            plan_of(_options(work)),
            free=subject.free,
            judge=self.judge,
            max_batch=self.costs.max_batch(subject.levels.numel()),
            device=self.hosted.device.torch_device,
        )

    def _advance(self, run: _Run, micro_batches: Generator[int, None, None]) -> bool:
        """Make one micro-batch, if there is one left."""
        started = time.monotonic()
        done = next(micro_batches, None)
        run.spent_s += time.monotonic() - started
        run.done = run.done if done is None else done
        return done is not None

    def _measure(self, run: _Run, which: int) -> Measured:
        """Ask about the pictures within one epsilon, best first, until one fools the answering network."""
        best: Measured | None = None
        for candidate in run.search.within(which):
            known = (one for one in run.measured.values() if one.levels is candidate.levels)
            after_K = next((one.probabilities for one in known), None)
            if after_K is None:
                after_K = self._probabilities(candidate.levels)
            measured = Measured(candidate.levels, after_K, says(after_K, run.search.goal), run.search.num_steps[which])
            best = best or measured
            if measured.fools(run.search.goal):
                return measured
            # Searched on it in this very precision, so only a change of the micro-batch's size could tell them apart.
            if candidate.margin <= 0:
                break
        assert best is not None
        return best

    def _progress(self, run: _Run) -> Progress:
        search, budget_s = run.search, _options(run.work).time_budget_s
        total = search.plan.num_micro_batches(search.max_batch)
        eta_s = run.spent_s / max(1, run.done) * (total - run.done)
        if budget_s is not None:
            eta_s = min(eta_s, max(0.0, budget_s - run.spent_s))
        fooled = sum(any(one.margin > 0 for one in search.within(which)) for which in run.found)
        note = f"fooled at {fooled} of {len(search.plan.epsilons)} epsilons"
        return Progress(done=run.done, total=total, eta_s=eta_s, note=note)

    def _unchanged(self, work: Work, goal: Goal, before_K: Tensor) -> Answer:
        """Nothing need be changed where the network is wrong already."""
        measured = Measured(work.prepared.subject.levels, before_K, says(before_K, goal), 0)
        every = dict.fromkeys(range(len(_options(work).radii)), measured)
        outcome = Outcome(work.prepared.subject, goal, before_K, every, "converged")
        return lambda: finished(work, self.hosted.card, outcome)

    def _answer(self, run: _Run, reason: StopReason) -> Answer:
        outcome = Outcome(run.work.prepared.subject, run.search.goal, run.before, run.measured, reason)
        work, card = run.work, self.hosted.card
        return lambda: finished(work, card, outcome)

    def _time_s(self, subject: Subject, goal: Goal) -> float:
        """Make one step of an attack; gives the seconds of a forward and backward pass."""
        plan = Plan((8 / 255,), steps=1)
        search = Search(
            self.exact, subject.levels, goal, plan, judge=self.judge, device=self.hosted.device.torch_device
        )
        started = time.monotonic()
        next(search.run())
        spent_s = time.monotonic() - started
        if search.best[0] is None or not math.isfinite(search.best[0].margin):
            raise ModelLoadError(f"{self.hosted.card.name} gave no logits that can be followed")
        return spent_s


def plan_of(options: AdversarialOptions) -> Plan:
    """Turn options into an attack."""
    steps = {} if options.steps is None or options.method == "fgsm" else {"steps": options.steps}
    return Plan(
        epsilons=options.radii,
        method=options.method,
        norm=options.norm,
        step_size=options.step_size,
        restarts=options.restarts,
        random_start=options.random_start,
        seed=options.seed,
        **steps,
    )


def _num_steps(plan: Plan) -> int:
    return 1 if plan.method == "fgsm" else plan.steps


def _options(work: Work) -> AdversarialOptions:
    assert isinstance(work.request.options, AdversarialOptions)
    return work.request.options


RUNTIME = AdversarialRuntime
