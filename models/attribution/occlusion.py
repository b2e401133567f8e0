"""Occlusion by a sliding window.

Shape suffixes: N windows, 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

import itertools

import numpy as np
from torch import Tensor

from models.attribution.answers import Explained
from models.attribution.perturbing import Perturbing
from models.attribution.question import Question, Settings
from models.errors import UnsupportedOption

WINDOWS_PER_SIDE = 8
"""How many windows fit side by side, unless their size is asked for."""


class Occlusion(Perturbing):
    """What the logit loses when a window shows the baseline (Zeiler & Fergus, 2013).

    A pixel gets the mean over the windows that cover it: above 0 where the class needs what is seen there. As in
    captum, windows at the right and lower edge may reach beyond it.

    Raises:
        UnsupportedOption: The window is larger than the input, or the stride than the window.
    """

    def __init__(self, question: Question, settings: Settings) -> None:
        super().__init__(question, settings)
        height, width = question.x_1CHW.shape[-2:]
        self.window_px = settings.window_px or max(1, round(min(height, width) / WINDOWS_PER_SIDE))
        stride_px = settings.stride_px or max(1, self.window_px // 2)
        if self.window_px > min(height, width):
            raise UnsupportedOption(
                f"Expected a window of at most {min(height, width)} pixels, got {self.window_px}: the network's input "
                f"is {width}x{height}. Choose a smaller window_px.",
                size_wh=[width, height],
            )
        if stride_px > self.window_px:
            raise UnsupportedOption(
                f"Expected a stride of at most the window's {self.window_px} pixels, got {stride_px}, which would "
                "leave pixels unexamined. Choose a smaller stride_px or a larger window_px."
            )
        corners = list(itertools.product(*(_starts(side, self.window_px, stride_px) for side in (height, width))))
        # In an order that spreads the windows over the image whenever it is left.
        order = np.random.default_rng(settings.seed).permutation(len(corners))
        self.corners = [corners[index] for index in order]
        self.total = 1 + len(corners)

    def inputs(self, start: int, number: int) -> Tensor:
        """Give the input itself first, then one copy for each window."""
        x_NCHW = self.question.x_1CHW.repeat(number, 1, 1, 1)
        for index in range(max(start, 1), start + number):
            window = self._window(index)
            x_NCHW[index - start, :, *window] = self.question.baseline_1CHW[0, :, *window]
        return x_NCHW

    @property
    def has_estimate(self) -> bool:
        """Whether a window was evaluated."""
        return self.recorded.done > 1

    def best(self) -> Explained:
        """Give the map; pixels that no window has covered so far are 0."""
        logits_N = self.recorded.of(self.question.target).numpy()
        sums_HW, counts_HW = np.zeros((2, *self.question.x_1CHW.shape[-2:]))
        for index, loss in enumerate(logits_N[0] - logits_N[1:], start=1):
            sums_HW[self._window(index)] += loss
            counts_HW[self._window(index)] += 1
        return Explained((sums_HW / np.maximum(counts_HW, 1)).astype(np.float32), self.evaluations)

    def _window(self, index: int) -> tuple[slice, slice]:
        top, left = self.corners[index - 1]
        return slice(top, top + self.window_px), slice(left, left + self.window_px)


def _starts(side: int, window: int, stride: int) -> list[int]:
    return [stride * index for index in range(-(-(side - window) // stride) + 1)]
