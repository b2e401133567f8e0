"""The checks of an explanation: deletion and insertion curves, and the sanity check of the method itself.

The runtime makes ``Checks`` of one class once its attribution is there, drives ``steps`` on the device thread, leaves
it whenever it must, and passes ``fields()`` on to the entry of that class in a finishing thread. Left before its end, a
check gives what it has: curves through fewer points, depths without the first layers and an open verdict, or nothing.
"""

from __future__ import annotations

from typing import Any

from models.attribution import Explained, Question, Settings, curves
from models.attribution.attributor import Steps
from models.attribution.sanity import Sanity, SanityTest
from models.attribution.strip import Row, draw_strip, input_picture
from visionpipe.schemas.results.explanation import Curve, Curves, SanityDepth, SanityReport
from workers.encoding import png
from workers.explanation_input import options_of
from workers.work import Work

PART = 1000
"""In how many parts the progress of each check is told."""


class Checks:
    """What the options ask to be checked of one class's attribution.

    Args:
        work: The image; its options say which checks, and with which numbers.
        question: What the attribution answered; its classifier is the fp32 network.
        settings: How the attribution was made.
        explained: The attribution.

    Attributes:
        note: What is being done.
    """

    def __init__(self, work: Work, question: Question, settings: Settings, explained: Explained) -> None:
        options = options_of(work)
        self._work, self._question, self._settings = work, question, settings
        self.note = ""
        self._curves: curves.CurveTest | None = None
        self._sanity: SanityTest | None = None
        if options.curves:
            self._curves = curves.CurveTest(
                question,
                settings,
                explained.attribution_HW,
                num_points=options.curve_steps,
                start_1CHW=curves.blurred(question.x_1CHW),
            )
        if options.sanity_check is not None:
            wish = options.sanity_check
            self._sanity = SanityTest(question, settings, explained, max_depths=wish.max_depths, seed=wish.seed)

    @property
    def evaluations(self) -> int:
        """Images that went through a network so far."""
        return sum(check.evaluations for check in (self._curves, self._sanity) if check is not None)

    def steps(self) -> Steps:
        """Run the checks, yielding after each device step of at most one micro-batch.

        Raises:
            UnsupportedOption: The network has no layers that could be randomized.
        """
        checks = [(note, check) for note, check in self._named() if check is not None]
        for index, (note, check) in enumerate(checks):
            self.note = note
            for done, total in check.steps():
                yield PART * index + PART * done // max(1, total), PART * len(checks)

    def fields(self) -> dict[str, Any]:
        """Store the strip, and give the fields ``curves`` and ``sanity`` of a class's entry; off the device thread."""
        made: dict[str, Any] = {}
        if self._curves is not None and self._curves.has_estimate:
            found = self._curves.best()
            made["curves"] = Curves(deletion=_curve(found.deletion), insertion=_curve(found.insertion))
        if self._sanity is not None and self._sanity.has_estimate:
            made["sanity"] = self._report(self._sanity.best())
        return made

    def _named(self) -> list[tuple[str, curves.CurveTest | SanityTest | None]]:
        return [("deletion and insertion", self._curves), ("sanity check", self._sanity)]

    def _report(self, sanity: Sanity) -> SanityReport:
        strip = draw_strip(input_picture(self._question), [Row(self._settings.method.replace("_", " "), sanity)])
        return SanityReport(
            depths=[
                SanityDepth(
                    layer=depth.layer,
                    rank_correlation=depth.similarity.rank_correlation,
                    rank_correlation_abs=depth.similarity.rank_correlation_abs,
                    ssim=depth.similarity.ssim,
                )
                for depth in sanity.depths
            ],
            verdict=sanity.judgement.verdict,
            reason=sanity.judgement.reason,
            strip=self._work.keep(png(strip, compress_level=9), "image/png"),
        )


def _curve(curve: curves.Curve) -> Curve:
    scores = [min(max(float(score), 0.0), 1.0) for score in curve.scores]
    return Curve(fractions=curve.fractions.tolist(), scores=scores, auc=curve.auc)
