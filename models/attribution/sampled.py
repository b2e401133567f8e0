"""Methods that average gradients at random points: SmoothGrad and GradientSHAP.

Each sample has a random generator of its own, so that the size of a step changes nothing.

Shape suffixes: N samples, 1 one image, B baselines, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from models.attribution.answers import Completeness, Explained, relative_error, to_map
from models.attribution.attributor import Attributor, Steps, gradient
from models.attribution.question import Question, Settings


class Moments:
    """Mean of samples and its standard error, from sums in float64."""

    def __init__(self) -> None:
        self.number = 0
        self._sum = self._squares = torch.zeros(())

    def add(self, samples: Tensor) -> None:
        """Take samples along the first axis."""
        samples = samples.double().cpu()
        self._sum = self._sum + samples.sum(0)
        self._squares = self._squares + samples.square().sum(0)
        self.number += len(samples)

    @property
    def mean(self) -> Tensor:
        """Their mean."""
        return self._sum / self.number

    @property
    def standard_error(self) -> Tensor:
        """Of the mean; infinite for a single sample."""
        if self.number < 2:
            return torch.full_like(self._sum, torch.inf)
        variance = (self._squares - self._sum.square() / self.number).clamp(min=0) / (self.number - 1)
        return (variance / self.number).sqrt()


class _Sampled(Attributor):
    """Averages over samples that are computed in micro-batches."""

    default_samples = 50
    default_noise = 0.0

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        self.moments = Moments()
        self.samples = settings.samples or self.default_samples
        noise = self.default_noise if settings.noise is None else settings.noise
        self.deviation_C11 = noise * question.input_span

    def steps(self) -> Steps:
        """Compute all samples."""
        while (done := self.moments.number) < self.samples:

            def compute(number: int, start: int = done) -> Tensor:
                return self.attributions(range(start, start + number)).cpu()

            found, number = self.pace.run(compute, self.samples - done)
            self.moments.add(found)
            self.evaluations += number
            yield self.moments.number, self.samples

    def attributions(self, samples: Iterable[int]) -> Tensor:
        """Give the attribution of each of some samples."""
        raise NotImplementedError

    def noisy(self, sample: int) -> tuple[Tensor, np.random.Generator]:
        """Add a sample's noise to the input (1, C, H, W); gives the sample's generator too."""
        x_1CHW = self.question.x_1CHW
        random = np.random.default_rng((self.settings.seed, sample))
        noise = torch.from_numpy(random.standard_normal(tuple(x_1CHW.shape), dtype=np.float32))
        return x_1CHW + noise.to(x_1CHW.device) * self.deviation_C11, random

    @property
    def expected(self) -> int:
        """About how many images will go through the network."""
        return self.samples

    @property
    def has_estimate(self) -> bool:
        """Whether a sample was computed."""
        return self.moments.number > 0


class SmoothGrad(_Sampled):
    """The gradient averaged over noisy copies (Smilkov et al., 2017), then as saliency: never below 0."""

    default_noise = 0.15

    def attributions(self, samples: Iterable[int]) -> Tensor:
        """Give gradients (N, C, H, W)."""
        from captum.attr import Saliency

        x_NCHW = torch.cat([self.noisy(sample)[0] for sample in samples]).requires_grad_()
        return cast(Tensor, Saliency(self.question.classifier).attribute(x_NCHW, self.question.target, abs=False))

    def best(self) -> Explained:
        """Give the largest absolute mean gradient over the channels, with its standard error."""
        mean_CHW = self.moments.mean
        values_HW, channel_HW = mean_CHW.abs().max(0)
        errors_HW = self.moments.standard_error.gather(0, channel_HW[None])[0]
        attribution_HW = to_map(values_HW)
        return Explained(
            attribution_HW, self.evaluations, standard_error=relative_error(errors_HW.numpy(), attribution_HW)
        )


class GradientShap(_Sampled):
    """Expected gradients between random baselines and the noisy input (Lundberg & Lee, 2017), channels summed."""

    default_samples = 200

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        given = question.baselines_BCHW
        self.baselines_BCHW = question.baseline_1CHW if given is None else given
        self._difference: float | None = None

    def steps(self) -> Steps:
        """Compute what the attributions should add up to, then all samples."""
        yield from self._measure_ends()
        yield from super().steps()

    def attributions(self, samples: Iterable[int]) -> Tensor:
        """Give attributions (N, H, W)."""
        points, paths = zip(*map(self._point, samples), strict=True)
        gradients_NCHW = gradient(self.question.classifier, torch.cat(points), self.question.target)
        attributions_NHW: Tensor = (gradients_NCHW * torch.cat(paths)).sum(1)
        return attributions_NHW

    def best(self) -> Explained:
        """Give the mean over the samples, with its standard error and completeness."""
        assert self._difference is not None
        attribution_HW = to_map(self.moments.mean)
        errors = self.moments.standard_error.numpy()
        return Explained(
            attribution_HW,
            self.evaluations,
            completeness=Completeness(float(self.moments.mean.sum()), self._difference),
            standard_error=relative_error(errors, attribution_HW),
        )

    def _measure_ends(self) -> Steps:
        ends_NCHW = torch.cat([self.question.x_1CHW, self.baselines_BCHW])
        outputs: list[Tensor] = []
        while (done := sum(map(len, outputs))) < len(ends_NCHW):

            def compute(number: int, start: int = done) -> Tensor:
                with torch.no_grad():
                    logits_NK = self.question.classifier(ends_NCHW[start : start + number])
                logits_N: Tensor = logits_NK[:, self.question.target].double().cpu()
                return logits_N

            found, number = self.pace.run(compute, len(ends_NCHW) - done)
            outputs.append(found)
            self.evaluations += number
            yield 0, self.samples
        measured = torch.cat(outputs)
        self._difference = float(measured[0] - measured[1:].mean())

    def _point(self, sample: int) -> tuple[Tensor, Tensor]:
        """Draw a point between a baseline and the noisy input, and the whole way between these."""
        end_1CHW, random = self.noisy(sample)
        chosen = int(random.integers(len(self.baselines_BCHW)))
        start_1CHW = self.baselines_BCHW[chosen : chosen + 1]
        return start_1CHW + float(random.random()) * (end_1CHW - start_1CHW), end_1CHW - start_1CHW
