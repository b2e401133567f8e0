"""The fast gradient method and projected gradient descent, on pictures of whole grey levels.

FGSM: Goodfellow, Shlens, Szegedy 2014. PGD: Madry, Makelov, Schmidt, Tsipras, Vladu 2017. The change that PGD carries
from step to step is a real number; every step rounds it to what a file can hold, asks the network there, and takes the
gradient there too, so that one pass both judges a picture and improves it.

Shape suffixes: N pictures of a micro-batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.attacks.balls import LEVELS, NORMS, Ball, Norm
from models.attacks.goal import Goal

Method = Literal["fgsm", "pgd"]
"""One step of the gradient's direction, or many projected ones."""

DEFAULT_STEPS = 40
"""Of PGD."""
STEP_OVER_MEAN = 2.5
"""A step of PGD is so many times epsilon over the number of steps, unless told otherwise."""


class LevelClassifier(nn.Module):
    """A classifier that takes pictures in grey levels: float32 (N, C, H, W) in [0, 255] give logits (N, K).

    The arithmetic is that of ``Preprocess.normalise``, so whole levels give exactly the inputs of the stored picture.

    Args:
        classifier: From normalised inputs to logits.
        mean: Of each channel, for values in [0, 1].
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Callable[[Tensor], Tensor], *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, levels_NCHW: Tensor) -> Tensor:
        """Give the logits."""
        return self.classifier((levels_NCHW / LEVELS - self.mean) / self.std)


class Track(NamedTuple):
    """One descent: an epsilon from one beginning."""

    which: int
    """Of the epsilon."""
    restart: int
    """Number of the beginning."""


@dataclass(frozen=True)
class Plan:
    """Which attack, how strong.

    Attributes:
        epsilons: Largest allowed changes, for values in [0, 1]; one attack each.
        steps: Gradient steps of PGD.
        step_size: Length of one of them in the norm; none means ``STEP_OVER_MEAN`` times epsilon over steps.
        restarts: Beginnings of PGD; all but the first are random.
        random_start: Whether the first is random, too.
        seed: Of the random beginnings.
    """

    epsilons: tuple[float, ...]
    method: Method = "pgd"
    norm: Norm = "linf"
    steps: int = DEFAULT_STEPS
    step_size: float | None = None
    restarts: int = 1
    random_start: bool = True
    seed: int = 0

    def stride(self, epsilon: float) -> float:
        """Give the length of one step of PGD, in levels."""
        return LEVELS * (STEP_OVER_MEAN * epsilon / self.steps if self.step_size is None else self.step_size)

    def batches(self, max_batch: int) -> list[list[Track]]:
        """Give the descents that are made together: first all epsilons from the first beginning, then from the next."""
        restarts = range(self.restarts if self.method == "pgd" else 1)
        tracks = [Track(which, restart) for restart in restarts for which in range(len(self.epsilons))]
        return [tracks[start : start + max_batch] for start in range(0, len(tracks), max_batch)]

    def num_micro_batches(self, max_batch: int) -> int:
        """Count the steps of ``Search.run``."""
        num_batches = len(self.batches(max_batch))
        return 1 + num_batches if self.method == "fgsm" else num_batches * (self.steps + 1)

    def num_passes(self) -> float:
        """Count forward and backward passes of one picture; a forward pass alone is a third."""
        num_tracks = len(self.epsilons) * (self.restarts if self.method == "pgd" else 1)
        return 1 + num_tracks / 3 if self.method == "fgsm" else num_tracks * (self.steps + 1 / 3)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A picture that an attack came across.

    Attributes:
        levels: The network's input in whole levels, uint8 (C, H, W), on the CPU.
        margin: By how much it reached the goal where it was judged; see ``Goal.margins``.
    """

    levels: Tensor
    margin: float


@dataclass(eq=False)
class Search:
    """The attacks on one picture, one per epsilon; restarts and epsilons share micro-batches.

    Args:
        network: Differentiable, from levels (N, C, H, W) to logits (N, K).
        origin: The picture in levels, uint8 (C, H, W).
        goal: What is wanted.
        plan: How.
        free: Which pixels may change, bool (H, W); none for all.
        judge: The network that must be fooled, from levels to logits; none for the same.
        max_batch: Most pictures in one micro-batch.

    Attributes:
        best: The picture that came furthest within each epsilon; none before its first judgement.
        num_steps: Gradient steps made for each epsilon.
    """

    network: Callable[[Tensor], Tensor]
    origin: Tensor
    goal: Goal
    plan: Plan
    free: Tensor | None = None
    judge: Callable[[Tensor], Tensor] | None = None
    max_batch: int = 32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    best: list[Candidate | None] = field(init=False)
    num_steps: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.best = [None] * len(self.plan.epsilons)
        self.num_steps = [0] * len(self.plan.epsilons)
        self._ball: Ball = NORMS[self.plan.norm]
        self._origin_CHW = self.origin.to(self.device, torch.float32)
        shape_HW = self._origin_CHW.shape[1:]
        free_HW = torch.ones(shape_HW, dtype=torch.bool) if self.free is None else self.free
        self._free_HW = free_HW.to(self.device, torch.float32)

    def run(self) -> Generator[int, None, None]:
        """Attack, yielding the number of micro-batches so far after each; ``best`` holds what was found by then.

        Raises:
            ArithmeticError: The logits are not finite.
        """
        # Counted here, because both methods are the same to whoever drives them.
        for done, _ in enumerate(self._fgsm() if self.plan.method == "fgsm" else self._pgd(), start=1):
            yield done

    def within(self, index: int) -> list[Candidate]:
        """Give the pictures within one epsilon that came furthest, best first.

        What PGD found for a smaller epsilon lies within a larger one. The fast gradient method takes its step, and no
        other: its picture for a smaller epsilon is no answer.
        """
        radius = self.plan.epsilons[index]
        allowed = [
            found
            for other, found in enumerate(self.best)
            if found is not None
            and (other == index or (self.plan.method == "pgd" and self.plan.epsilons[other] <= radius))
        ]
        return sorted(allowed, key=lambda found: -found.margin)

    def _fgsm(self) -> Generator[None, None, None]:
        gradient_NCHW, _ = self._gradient(self._origin_CHW[None])
        steepest_NCHW = self._ball.steepest(gradient_NCHW)
        self.num_steps = [1] * len(self.num_steps)
        yield
        for batch in self.plan.batches(self.max_batch):
            _, levels_NCHW = self._settled(batch, steepest_NCHW * self._radii(batch).view(-1, 1, 1, 1))
            self._judge(batch, levels_NCHW, None)
            yield

    def _pgd(self) -> Generator[None, None, None]:
        for batch in self.plan.batches(self.max_batch):
            change_NCHW, levels_NCHW = self._settled(batch, self._beginning(batch))
            stride_N111 = self._per_track(batch, self.plan.stride).view(-1, 1, 1, 1)
            for _ in range(self.plan.steps):
                gradient_NCHW, logits_NK = self._gradient(levels_NCHW)
                self._judge(batch, levels_NCHW, logits_NK)
                change_NCHW = change_NCHW + stride_N111 * self._ball.steepest(gradient_NCHW)
                change_NCHW, levels_NCHW = self._settled(batch, change_NCHW)
                for track in batch:
                    self.num_steps[track.which] += 1
                yield
            self._judge(batch, levels_NCHW, None)
            yield

    def _beginning(self, batch: list[Track]) -> Tensor:
        shape = tuple(self._origin_CHW.shape)
        noise_NCHW = torch.stack(
            [
                self._ball.noise(shape, self._random(track.restart))
                if self.plan.random_start or track.restart > 0
                else torch.zeros(shape)
                for track in batch
            ]
        )
        return noise_NCHW.to(self.device) * self._radii(batch).view(-1, 1, 1, 1)

    def _random(self, restart: int) -> torch.Generator:
        # Of its own for each beginning, so that it does not matter which descents share a micro-batch.
        return torch.Generator().manual_seed((self.plan.seed << 16) + restart)

    @torch.enable_grad()
    def _gradient(self, levels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Give the direction (N, C, H, W) in which to go, up to a positive factor per picture, and the logits."""
        leaf_NCHW = levels_NCHW.detach().clone().requires_grad_()
        logits_NK = self.network(leaf_NCHW)
        # A sum rather than `grad_outputs`, for which torch imports sympy: more than a second at a worker's start.
        gained = (logits_NK * self.goal.ascent(logits_NK)).sum()
        (gradient_NCHW,) = torch.autograd.grad(gained, leaf_NCHW)
        return gradient_NCHW * self._free_HW, logits_NK.detach()

    @torch.no_grad()
    def _judge(self, batch: list[Track], levels_NCHW: Tensor, logits_NK: Tensor | None) -> None:
        """Ask the network that must be fooled, and keep what comes further than what was kept before."""
        if self.judge is not None:
            logits_NK = self.judge(levels_NCHW)
        elif logits_NK is None:
            logits_NK = self.network(levels_NCHW)
        for track, levels_CHW, margin in zip(batch, levels_NCHW, self.goal.margins(logits_NK).tolist(), strict=True):
            if not math.isfinite(margin):
                raise ArithmeticError("the network gave logits that are not finite")
            kept = self.best[track.which]
            if kept is None or margin > kept.margin:
                self.best[track.which] = Candidate(levels_CHW.to("cpu", torch.uint8), margin)

    def _settled(self, batch: list[Track], change_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Bring changes back into their balls and between black and white; gives them, and the pictures to be asked."""
        change_NCHW = self._ball.project(change_NCHW * self._free_HW, self._radii(batch))
        # Measured before black and white cut it off: what is lost there may go elsewhere.
        extent_N = self._ball.extents(change_NCHW, self._per_track(batch, self._ball.limit, torch.float64))
        change_NCHW = (self._origin_CHW + change_NCHW).clamp(0, LEVELS) - self._origin_CHW
        return change_NCHW, self._ball.rounded(self._origin_CHW, change_NCHW, extent_N)

    def _radii(self, batch: list[Track]) -> Tensor:
        return self._per_track(batch, self._ball.radius)

    def _per_track(
        self, batch: list[Track], what: Callable[[float], float], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        values = [what(self.plan.epsilons[track.which]) for track in batch]
        return torch.tensor(values, dtype=dtype, device=self.device)
