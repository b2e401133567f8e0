"""Which pixels speak for a class, and how far to trust that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from visionpipe.extras import images_extra
from visionpipe.schemas.base import Schema, Score
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results.base import ClassScore, StopReason
from visionpipe.schemas.results.parts import ListResult, Wanted, class_test

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from visionpipe.drawing.canvas import Canvas

Correlation = Annotated[float, Field(ge=-1, le=1)]
"""A correlation, or SSIM: 1 means the same, 0 unrelated."""


class SegmentWeight(Schema):
    """What one superpixel adds to the class."""

    segment: int = Field(ge=1)
    """Its pixels' value in the segmentation, counted from 1."""
    weight: float
    """Change of the class's logit when it is shown instead of the baseline."""
    standard_error: float | None = Field(default=None, ge=0)
    """Of the weight, from the samples."""


class Completeness(Schema):
    """Whether the attributions add up to what they explain."""

    attribution_sum: float
    """Sum of the attributions."""
    output_difference: float
    """f(image) - f(baseline), of the explained class's logit."""
    error: float = Field(ge=0)
    """|sum - difference| / |difference|."""


class Curve(Schema):
    """The class's probability while pixels are removed or shown, the most important first."""

    fractions: list[Score]
    """Share of the pixels changed, rising from 0 to 1."""
    scores: list[Score]
    """The class's probability at each share."""
    auc: Score
    """Area under the curve."""

    @model_validator(mode="after")
    def _one_score_per_fraction(self) -> Curve:
        if len(self.fractions) != len(self.scores):
            raise ValueError(f"{len(self.fractions)} fractions, but {len(self.scores)} scores")
        return self


class Curves(Schema):
    """How faithful the ranking of the pixels is."""

    deletion: Curve
    """Pixels replaced by the baseline; a good explanation falls fast: small area."""
    insertion: Curve
    """Pixels put back onto a blurred copy of the image; a good explanation rises fast: large area."""


class SanityDepth(Schema):
    """The attribution after randomizing the layers from the last down to one."""

    layer: str
    """The last layer randomized, by its dotted name."""
    rank_correlation: Correlation
    """Spearman's, with the attribution of the trained network."""
    rank_correlation_abs: Correlation
    """The same of the absolute values."""
    ssim: Correlation
    """Structural similarity of the two maps."""


class SanityReport(Schema):
    """Whether the method depends on what the network has learnt (Adebayo et al., 2018)."""

    depths: list[SanityDepth] = Field(min_length=1)
    """From the last layer to the first."""
    verdict: Literal["passes", "fails", "inconclusive"]
    """A method fails whose map stays alike however much of the network is random."""
    reason: str
    """The verdict in words, with its numbers."""
    strip: ArtifactRef
    """PNG with the maps side by side, as in the paper's figure 2."""


class Attribution(Schema):
    """The explanation of one class."""

    target: ClassScore
    """The class, with its probability for the image."""
    attribution: ArtifactRef
    """``.npy`` of shape (H, W) of the original image, float32, upright; 0 where the network did not look. Of the logit:
    above 0 speaks for the class, below 0 against it. Saliency and SmoothGrad say how much, not which way, and Grad-CAM
    only what speaks for it: these are never below 0. LIME and KernelSHAP give each pixel its superpixel's weight; the
    other methods add up a pixel's colours."""
    overlay: ArtifactRef | None = None
    """PNG of the attribution over the image, when asked for."""
    segments: list[SegmentWeight] | None = None
    """The superpixels' weights, strongest first; LIME and KernelSHAP."""
    completeness: Completeness | None = None
    """Of the methods that promise it: integrated gradients, KernelSHAP, GradientSHAP."""
    surrogate_r2: float | None = Field(default=None, le=1)
    """How well LIME's linear surrogate fits its samples; 1 is perfect."""
    standard_error: float | None = Field(default=None, ge=0)
    """Of sampled methods: mean standard error of the attribution, as a share of its largest absolute value."""
    note: str | None = None
    """What to know before trusting it, such as that integrated gradients do not add up within the promised 1 %."""
    curves: Curves | None = None
    """Deletion and insertion, when asked for."""
    sanity: SanityReport | None = None
    """The test of the method itself, when asked for."""


class ExplanationResult(ListResult[Attribution]):
    """One attribution per class asked for."""

    PARTS: ClassVar[str] = "attributions"
    SHOWN_ARTIFACT: ClassVar[str | None] = "attributions.0.overlay"

    task: Literal["explanation"] = "explanation"
    """Selects this result."""
    method: str
    """How the attributions were made."""
    attributions: list[Attribution] = Field(min_length=1)
    """In the order of the targets."""
    segmentation: ArtifactRef | None = None
    """Grey 16-bit PNG of the original size; the pixel values are ``segment``, 0 where the network did not look. Of LIME
    and KernelSHAP."""
    layer: str | None = None
    """The module that Grad-CAM read."""
    evaluations: int = Field(ge=0)
    """Images that went through the network: steps, samples or windows."""
    stopped: StopReason
    """Why it ended."""

    def summary(self) -> str:
        """Say the result in one line, for people."""
        targets = ", ".join(str(entry.target) for entry in self.attributions)
        notes = "".join(f"; {entry.target.label}: {entry.note}" for entry in self.attributions if entry.note)
        return f"{self.method} of {targets}, {self.evaluations} evaluations ({self.stopped}){notes}"

    def rows(self) -> list[dict[str, str]]:
        """One row per explained class, with the figures to trust it by."""
        return [
            {
                "class": entry.target.label,
                "score": f"{entry.target.score:.4f}",
                "completeness error": "" if entry.completeness is None else f"{entry.completeness.error:.2%}",
                "surrogate R2": "" if entry.surrogate_r2 is None else f"{entry.surrogate_r2:.3f}",
                "standard error": "" if entry.standard_error is None else f"{entry.standard_error:.2%}",
                "deletion AUC": "" if entry.curves is None else f"{entry.curves.deletion.auc:.3f}",
                "insertion AUC": "" if entry.curves is None else f"{entry.curves.insertion.auc:.3f}",
                "sanity": "" if entry.sanity is None else entry.sanity.verdict,
            }
            for entry in self.attributions
        ]

    def filter(
        self,
        *,
        min_score: float = 0.0,
        labels: Wanted | None = None,
        where: Callable[[Attribution], bool] | None = None,
    ) -> Self:
        """Keep some of the attributions: of classes as probable as that, of some classes, or by a test of your own."""
        fits = class_test(labels)
        return self.with_parts(
            entry
            for entry in self
            if entry.target.score >= min_score
            and fits(entry.target.label, entry.target.class_id)
            and (where is None or where(entry))
        )

    def attribution_array(self, index: int = 0) -> NDArray[np.floating[Any]]:
        """Fetch one attribution: shape (H, W) of the original image, float32, positive speaks for the class.

        Raises:
            ArtifactNotFetchedError: The result does not know where to fetch it.
            ArtifactExpiredError: It has outlived its time in the store.
        """
        with images_extra():
            from visionpipe.drawing.files import load_npy

        return load_npy(self.read(self.attributions[index].attribution, "attribution"))

    def _paint(self, canvas: Canvas | None) -> Image:
        from visionpipe.drawing.banner import Line, with_banner
        from visionpipe.drawing.colors import class_color
        from visionpipe.drawing.sheets import sheet
        from visionpipe.drawing.strips import heat_overlay

        picture = self._needed(canvas).picture
        made = [
            with_banner(
                heat_overlay(picture, self.attribution_array(index)),
                [Line(f"{self.method}: {entry.target}", class_color(entry.target.class_id))],
            )
            for index, entry in enumerate(self.attributions)
        ]
        if len(made) == 1:
            return made[0]
        return sheet([[(each, "") for each in made]], cell_px=min(1024, max(picture.size)))
