"""What every attribution method is: short device steps, after any of which the best so far can be had.

Shape suffixes: N images, 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.attribution.answers import Explained
from models.attribution.pace import Pace
from models.attribution.question import Question, Settings
from models.errors import UnsupportedOption

Steps = Generator[tuple[int, int], None, None]
"""Device steps; each tells how much is done, and of how much."""


class Attributor(ABC):
    """One method on one question.

    Making one checks the settings and runs nothing. Its answer depends on the seed alone, not on the size of steps.

    Args:
        question: What is asked.
        settings: With which numbers.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        self.question = question
        self.settings = settings
        self.pace = Pace(settings.max_batch, settings.step_s, question.is_awaited)
        self.evaluations = 0

    @abstractmethod
    def steps(self) -> Steps:
        """Run, yielding after each device step of at most one micro-batch.

        Raises:
            UnsupportedOption: The network cannot do what the method needs.
            UnknownLayer: It has no layer of that name that would do.
        """

    differentiates: ClassVar[bool] = True
    """Whether it takes gradients."""

    @property
    @abstractmethod
    def expected(self) -> int:
        """About how many images will go through the network."""

    @property
    @abstractmethod
    def has_estimate(self) -> bool:
        """Whether ``best`` has anything to give yet."""

    @abstractmethod
    def best(self) -> Explained:
        """Give the best attribution so far, with the errors it has now; no device is needed."""

    def best_map(self) -> NDArray[np.float32]:
        """Give the map of ``best`` alone, which may cost less."""
        return self.best().attribution_HW


def gradient(classifier: nn.Module, x_NCHW: Tensor, target: int) -> Tensor:
    """Differentiate a class' logits by their inputs: gives (N, C, H, W).

    Raises:
        UnsupportedOption: The network breaks the chain of gradients.
    """
    with torch.enable_grad():
        x_NCHW = x_NCHW.detach().requires_grad_()
        logits_N = classifier(x_NCHW)[:, target]
        if not logits_N.requires_grad:
            raise UnsupportedOption(
                "Expected a network that can be differentiated, this one or its postprocess hook cannot. Use "
                "occlusion, lime or kernel_shap."
            )
        (gradient_NCHW,) = torch.autograd.grad(logits_N.sum(), x_NCHW)
    return gradient_NCHW.detach()


def strongest(values_CHW: Tensor) -> Tensor:
    """Take the largest absolute value over the channels: (..., C, H, W) gives (..., H, W), never below 0."""
    return values_CHW.abs().amax(-3)
