"""One picture, one method after the other: the attribution, its checks, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import captum.attr  # noqa: F401 - takes a second, which would count as the first method's
import torch
from PIL import Image

from models.attribution import METHODS, Method, Question, Settings, explain
from models.attribution.curves import CurveTest, blurred
from models.attribution.sanity import Sanity, SanityTest
from models.attribution.strip import input_picture
from models.auditing.subject import Subject
from models.errors import UnknownLayer, UnsupportedOption

DEFAULT_METHODS: tuple[Method, ...] = ("saliency", "integrated_gradients", "grad_cam", "guided_backprop")
"""Two that the paper passes, one it debates, and one that it exposes."""


@dataclass(frozen=True)
class AuditOptions:
    """What is audited, and how.

    Attributes:
        methods: Which; see ``models.attribution.METHODS``.
        target: The class; the most probable one of each picture unless given.
        sanity: Whether to randomize the network.
        curves: Whether to measure deletion and insertion.
        max_depths: At most so many depths of randomization.
        curve_points: Points on each curve.
        settings: Of all methods.
    """

    methods: tuple[Method, ...] = DEFAULT_METHODS
    target: int | None = None
    sanity: bool = True
    curves: bool = False
    max_depths: int = 12
    curve_points: int = 50
    settings: Settings = field(default_factory=lambda: Settings(step_s=0.5))

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise UnsupportedOption(f"Expected methods among {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}.")


@dataclass(frozen=True)
class Figures:
    """The numbers of one method on one picture; ``None`` for what was not asked for, or is not promised.

    Attributes:
        image: Name of the picture.
        method: The method.
        target: The class that was explained.
        score: Its probability.
        seconds: What the attribution took, without its checks.
        completeness_error: |sum - difference| / |difference|.
        deletion_auc: Area under the deletion curve.
        insertion_auc: Area under the insertion curve, which starts from a blurred picture.
        verdict: On this picture alone.
        reason: The verdict in words.
        kept: Share of the ranks' variance that is kept, averaged over the depths.
        depths: Per depth: layer, number of random layers, rank correlation, that of absolute values, SSIM.
        num_layers: How many layers can be randomized.
        num_pixels: Of a map.
    """

    image: str
    method: Method
    target: int
    score: float
    seconds: float
    completeness_error: float | None = None
    deletion_auc: float | None = None
    insertion_auc: float | None = None
    verdict: str | None = None
    reason: str | None = None
    kept: float | None = None
    depths: tuple[tuple[str, int, float, float, float], ...] = ()
    num_layers: int = 0
    num_pixels: int = 0


@dataclass(frozen=True)
class Outcome:
    """One method on one picture.

    Attributes:
        method: The method.
        figures: Its numbers, unless the network cannot do it.
        sanity: Its maps, if they were asked for.
        fault: Why the network cannot do it.
        picture: The network's input.
    """

    method: Method
    figures: Figures | None = None
    sanity: Sanity | None = None
    fault: str | None = None
    picture: Image.Image | None = None


def measure(subject: Subject, picture: Image.Image, name: str, options: AuditOptions) -> Iterator[Outcome]:
    """Audit all methods on one picture, yielding each when it is done.

    Args:
        subject: The model.
        picture: Upright, RGB or L.
        name: Of the picture.
        options: What to audit.

    Raises:
        UnsupportedOption: There is no such class.
    """
    question, score = subject.question(picture, options.target)
    shown = input_picture(question)
    for method in options.methods:
        try:
            figures, sanity = _audit(question, replace(options.settings, method=method), options, name, score)
        except (UnsupportedOption, UnknownLayer) as error:
            yield Outcome(method, fault=error.message)
        else:
            yield Outcome(method, figures, sanity, picture=shown)


def _audit(
    question: Question, settings: Settings, options: AuditOptions, name: str, score: float
) -> tuple[Figures, Sanity | None]:
    question = replace(question, memo={})
    started = time.perf_counter()
    explained = explain(question, settings)
    _wait(question.x_1CHW.device)
    figures = Figures(
        name,
        settings.method,
        question.target,
        score,
        time.perf_counter() - started,
        None if explained.completeness is None else explained.completeness.error,
        num_pixels=explained.attribution_HW.size,
    )
    if options.curves:
        start_1CHW = blurred(question.x_1CHW)
        test = CurveTest(
            question, settings, explained.attribution_HW, num_points=options.curve_points, start_1CHW=start_1CHW
        )
        for _ in test.steps():
            pass
        curves = test.best()
        figures = replace(figures, deletion_auc=curves.deletion.auc, insertion_auc=curves.insertion.auc)
    if not options.sanity:
        return figures, None
    check = SanityTest(question, settings, explained, max_depths=options.max_depths, seed=settings.seed)
    for _ in check.steps():
        pass
    return _with_sanity(figures, check.best()), check.best()


def _with_sanity(figures: Figures, sanity: Sanity) -> Figures:
    return replace(
        figures,
        verdict=sanity.judgement.verdict,
        reason=sanity.judgement.reason,
        kept=sanity.judgement.kept,
        depths=tuple((depth.layer, depth.num_layers, *depth.similarity) for depth in sanity.depths),
        num_layers=sanity.num_layers,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
