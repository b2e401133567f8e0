"""Methods of one gradient: saliency, input x gradient, guided backpropagation, deconvolution.

Shape suffixes: 1 one image, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from models.attribution.answers import Explained, to_map
from models.attribution.attributor import Attributor, Steps, strongest
from models.relu_rules import Rule, check_relu, relu_rule


class _OneGradient(Attributor):
    """One pass forward and one back."""

    attribution_HW: Tensor | None = None

    def steps(self) -> Steps:
        """Make the only step."""
        with torch.enable_grad():
            x_1CHW = self.question.x_1CHW.detach().clone().requires_grad_()
            self.attribution_HW = self.attribute(x_1CHW).detach()
        self.evaluations += 1
        yield 1, 1

    def attribute(self, x_1CHW: Tensor) -> Tensor:
        """Give the attribution (H, W)."""
        raise NotImplementedError

    @property
    def expected(self) -> int:
        """About how many images will go through the network."""
        return 1

    @property
    def has_estimate(self) -> bool:
        """Whether the step was made."""
        return self.attribution_HW is not None

    def best(self) -> Explained:
        """Give the attribution."""
        assert self.attribution_HW is not None
        return Explained(to_map(self.attribution_HW), self.evaluations)


class Saliency(_OneGradient):
    """The largest absolute gradient over the channels (Simonyan et al., 2013): how much, not which way."""

    def attribute(self, x_1CHW: Tensor) -> Tensor:
        """Give values of at least 0."""
        from captum.attr import Saliency as CaptumSaliency

        method = CaptumSaliency(self.question.classifier)
        return strongest(cast(Tensor, method.attribute(x_1CHW, self.question.target, abs=False))[0])


class InputXGradient(_OneGradient):
    """Gradient times input, summed over the channels (Shrikumar et al., 2016); relative to the mean colour."""

    def attribute(self, x_1CHW: Tensor) -> Tensor:
        """Give signed values: a pixel above 0 raises the logit by being as it is instead of the mean colour."""
        from captum.attr import InputXGradient as CaptumInputXGradient

        method = CaptumInputXGradient(self.question.classifier)
        return cast(Tensor, method.attribute(x_1CHW, self.question.target))[0].sum(0)


class _ByRule(_OneGradient):
    """The gradient under another rule for every ReLU, summed over the channels."""

    rule: Rule

    def steps(self) -> Steps:
        """See that there are ReLUs to change, then make the only step."""
        check_relu(self.question.classifier, self.question.x_1CHW, self.settings.method)
        self.evaluations += 1
        yield from super().steps()

    def attribute(self, x_1CHW: Tensor) -> Tensor:
        """Give signed values: above 0 where a brighter pixel excites what excites the class."""
        with relu_rule(self.rule):
            logit = self.question.classifier(x_1CHW)[:, self.question.target].sum()
        return torch.autograd.grad(logit, x_1CHW)[0][0].sum(0)


class GuidedBackprop(_ByRule):
    """Guided backpropagation (Springenberg et al., 2014)."""

    rule = "guided"


class Deconvolution(_ByRule):
    """The deconvolutional network's way back through the ReLUs (Zeiler & Fergus, 2013)."""

    rule = "deconvolution"
