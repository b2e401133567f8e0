"""Activation maximisation: pictures that excite a unit, found by climbing its gradient.

Simonyan, Vedaldi, Zisserman: Deep inside convolutional networks, 2013 (the climb, decay of the pixels); Mahendran and
Vedaldi: Understanding deep image representations by inverting them, 2015 (total variation, jitter); Yosinski et al.:
Understanding neural networks through deep visualization, 2015 (blur between steps).

Shape suffixes: N units, C channels, H height, W width.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.errors import UnsupportedOption
from models.visualization.layers import RECTIFIERS, Maps, Survey
from models.visualization.peaks import Peak, peaks

MOMENTUM = 0.9
"""Of the climb."""
START_NOISE = 0.1
"""Standard deviation of the noise that a climb starts from, around the mean colour, as a fraction of the range."""
LEAK = 0.01
"""What a place at which the unit is not excited counts, so that a unit at rest everywhere is woken."""
GENERATOR_BYTES = 5056
"""State of one of torch's generators."""
_SMALL = 1e-12


@dataclass(frozen=True)
class Regularizers:
    """What keeps a maximising picture looking like a picture; the gradient of a unit's activation has rms 1."""

    l2: float = 0.05
    """Decay of the pixels towards the mean colour, per unit of distance."""
    tv: float = 0.15
    """Weight of the total variation's gradient."""
    jitter_px: int = 2
    """Largest shift by chance before each step."""
    blur_every: int = 4
    """Steps between blurs; 0 means none."""
    blur_sigma_px: float = 0.5
    """Standard deviation of the blur."""


@dataclass(frozen=True)
class Plan:
    """How to climb."""

    size_hw: tuple[int, int]
    """Of the picture."""
    mean: Sequence[float]
    """Of each input channel in [0, 1], which the network's input has subtracted."""
    std: Sequence[float]
    """Then divides each channel."""
    steps: int = 256
    learning_rate: float = 0.05
    """Step of a pixel whose gradient is of average size, as a fraction of the range from black to white."""
    regularizers: Regularizers = Regularizers()
    seed: int = 0

    @property
    def unit_bytes(self) -> int:
        """What one unit keeps between steps, however many there are: its picture, velocity and random generator."""
        return 2 * 4 * len(self.mean) * self.size_hw[0] * self.size_hw[1] + GENERATOR_BYTES


class Ascent:
    """A few units of one layer, climbing together; each ends as if it had climbed alone.

    What is climbed is the sum of a channel over all positions at which it is excited, so that the picture is full of
    what excites it. Nothing is drawn, and next to no memory taken, before the first step or look at the pictures.

    Args:
        survey: Of the network, fp32.
        layer: Its name, checked before.
        channels: N of them.
        plan: How.
        device: Of the network.
    """

    def __init__(self, survey: Survey, layer: str, channels: Sequence[int], plan: Plan, device: torch.device) -> None:
        self.layer = layer
        self.channels = list(channels)
        self.done = 0
        self._survey, self.plan, self._device = survey, plan, device
        self._maps = Maps(survey, [layer], driven=True)
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (plan.mean, plan.std)
        )
        self.peaks = [Peak(layer, channel, 0.0, None) for channel in self.channels]
        """How strongly each excites its unit: in the last step, shifted as it was, or as ``measure`` found."""
        self._random: list[torch.Generator] = []
        self._pixels_NCHW: Tensor | None = None
        self._velocity_NCHW: Tensor | None = None
        self._blur = _gaussian(plan.regularizers.blur_sigma_px, device)

    @property
    def pixels_NCHW(self) -> Tensor:  # noqa: N802 - a shape suffix
        """The pictures so far: values in [0, 1]."""
        if self._pixels_NCHW is None:
            self._random = [_generator(self.plan, self.layer, channel) for channel in self.channels]
            shape = (len(self.plan.mean), *self.plan.size_hw)
            noise_NCHW = torch.stack([torch.randn(shape, generator=random) for random in self._random])
            self._pixels_NCHW = (self._mean + START_NOISE * noise_NCHW.to(self._device)).clamp(0, 1)
        return self._pixels_NCHW

    def step(self) -> None:
        """Climb one step.

        Raises:
            UnsupportedOption: The network cannot take pictures of this size.
        """
        plan, regularizers = self.plan, self.plan.regularizers
        pixels_NCHW, gradient_NCHW = self.pixels_NCHW, self._gradient()
        rms_N111 = gradient_NCHW.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        direction_NCHW = gradient_NCHW / (rms_N111 + _SMALL)
        direction_NCHW -= regularizers.l2 * (pixels_NCHW - self._mean)
        direction_NCHW -= regularizers.tv * tv_gradient(pixels_NCHW)
        if self._velocity_NCHW is None:
            self._velocity_NCHW = torch.zeros_like(pixels_NCHW)
        self._velocity_NCHW.mul_(MOMENTUM).add_(direction_NCHW, alpha=1 - MOMENTUM)
        # A shrinking step lets the climb settle, which jitter would otherwise keep it from.
        rate = plan.learning_rate * (1 - 0.9 * self.done / plan.steps)
        pixels_NCHW = (pixels_NCHW + rate * self._velocity_NCHW).clamp(0, 1)
        self.done += 1
        if regularizers.blur_every and self.done % regularizers.blur_every == 0 and self.done < plan.steps:
            pixels_NCHW = _blurred(pixels_NCHW, self._blur)
        self._pixels_NCHW = pixels_NCHW

    def settle(self) -> None:
        """End the climb: what only steps need is dropped, and the pictures lie in the computer's own memory."""
        self._velocity_NCHW, self._random = None, []
        self._device, self._mean = torch.device("cpu"), self._mean.cpu()
        if self._pixels_NCHW is not None:
            self._pixels_NCHW = self._pixels_NCHW.cpu()

    @torch.no_grad()
    def measure(self) -> None:
        """Find how strongly each picture excites its unit, and where most."""
        maps = Maps(self._survey, [self.layer])((self.pixels_NCHW - self._mean) / self._std)
        found = peaks(maps, channels=self.channels)
        self.peaks = [units[index] for index, units in enumerate(found)]

    @torch.enable_grad()
    def _gradient(self) -> Tensor:
        pixels_NCHW = self.pixels_NCHW.detach().requires_grad_()
        shifted_NCHW = _shifted(pixels_NCHW, self._random, self.plan.regularizers.jitter_px)
        try:
            maps_NCHW = self._maps((shifted_NCHW - self._mean) / self._std)[self.layer]
        except RuntimeError as error:
            raise _wrong_size(self.plan.size_hw, self._survey.size_hw, error) from error
        index = torch.arange(len(self.channels), device=self._device)
        maps_NHW = maps_NCHW[index, torch.tensor(self.channels, device=self._device)]
        # Beyond the rectifier nothing is gained by the places where the unit is far from excited.
        self.peaks = [
            Peak(self.layer, channel, self._rectified(strength), None)
            for channel, strength in zip(self.channels, maps_NHW.detach().amax(dim=(1, 2)).tolist(), strict=True)
        ]
        excited = functional.leaky_relu(maps_NHW, LEAK).sum()
        return torch.autograd.grad(excited, pixels_NCHW)[0]

    def _rectified(self, value: float) -> float:
        return max(0.0, value) if isinstance(self._survey.network.get_submodule(self.layer), RECTIFIERS) else value


def tv_gradient(pixels_NCHW: Tensor) -> Tensor:
    """Give the gradient of the isotropic total variation: about -2 to 2 for each value."""
    with torch.enable_grad():
        x_NCHW = pixels_NCHW.detach().requires_grad_()
        down, right = x_NCHW.diff(dim=2)[..., :-1], x_NCHW.diff(dim=3)[:, :, :-1]
        variation = (down.square() + right.square() + 1e-6).sqrt().sum()
        return torch.autograd.grad(variation, x_NCHW)[0]


def _generator(plan: Plan, layer: str, channel: int) -> torch.Generator:
    """Make one unit's own source of chance, whatever climbs beside it."""
    return torch.Generator().manual_seed(plan.seed * 2**31 + zlib.crc32(f"{layer}:{channel}".encode()))


def _shifted(pixels_NCHW: Tensor, random: Sequence[torch.Generator], most_px: int) -> Tensor:
    if not most_px:
        return pixels_NCHW
    height, width = pixels_NCHW.shape[-2:]
    padded_NCHW = functional.pad(pixels_NCHW, [most_px] * 4, mode="replicate")
    corners = [torch.randint(2 * most_px + 1, (2,), generator=one).tolist() for one in random]
    return torch.stack(
        [
            padded_CHW[:, top : top + height, left : left + width]
            for padded_CHW, (top, left) in zip(padded_NCHW, corners, strict=True)
        ]
    )


def _gaussian(sigma_px: float, device: torch.device) -> Tensor:
    reach = max(1, round(3 * sigma_px))
    offsets = torch.arange(-reach, reach + 1, device=device, dtype=torch.float32)
    weights = torch.exp(-offsets.square() / (2 * sigma_px**2))
    return weights / weights.sum()


def _blurred(pixels_NCHW: Tensor, weights: Tensor) -> Tensor:
    channels, reach = pixels_NCHW.shape[1], len(weights) // 2
    padded = functional.pad(pixels_NCHW, [reach] * 4, mode="replicate")
    rows = functional.conv2d(padded, weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return functional.conv2d(rows, weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _wrong_size(
    size_hw: tuple[int, int], usual_hw: tuple[int, int], error: RuntimeError
) -> UnsupportedOption | RuntimeError:
    if size_hw == usual_hw:
        return error
    return UnsupportedOption(
        f"Expected a size that the network can compute, got {size_hw[1]}x{size_hw[0]} pixels ({error}). "
        f"Leave size_px unset for {usual_hw[1]}x{usual_hw[0]}."
    )
