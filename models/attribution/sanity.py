"""The sanity check of an attribution method: does its map change when the network forgets what it has learnt?

Adebayo, Gilmer, Muelly, Goodfellow, Hardt, Kim: Sanity checks for saliency maps, 2018; cascading randomization.

Shape suffixes: H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.attribution.answers import Explained
from models.attribution.aside import aside
from models.attribution.attributor import Attributor, Steps
from models.attribution.cascade import Cascade, spread_depths
from models.attribution.methods import attributor
from models.attribution.path import FIRST_STEPS
from models.attribution.question import Question, Settings
from models.attribution.sanity_verdict import Judgement, judge
from models.attribution.similarity import Similarity, is_flat, similarity

PARTS = 100
"""In how many parts the progress of one depth is told."""


@dataclass(frozen=True)
class Depth:
    """The attribution after randomizing the layers from the last down to one.

    Attributes:
        layer: The last layer randomized.
        num_layers: How many are random.
        similarity: To the attribution of the trained network.
        attribution_HW: The map.
    """

    layer: str
    num_layers: int
    similarity: Similarity
    attribution_HW: NDArray[np.float32]


@dataclass(frozen=True)
class Sanity:
    """What the check found.

    Attributes:
        original_HW: The map of the trained network.
        depths: From the last layer to the first, as far as the check has come.
        num_layers: How many layers can be randomized.
        judgement: The verdict.
    """

    original_HW: NDArray[np.float32]
    depths: tuple[Depth, ...]
    num_layers: int
    judgement: Judgement


class SanityTest:
    """Attributes the same input and class with ever more layers random, and compares the maps.

    Args:
        question: What the attribution answered.
        settings: How; the same for every depth.
        explained: The attribution of the trained network.
        max_depths: At how many depths to look at most, spread evenly; the first and the last always.
        seed: Of the random weights.
    """

    def __init__(
        self, question: Question, settings: Settings, explained: Explained, *, max_depths: int = 12, seed: int = 0
    ) -> None:
        self._question = question
        self._settings = settings
        if settings.method == "integrated_gradients" and settings.steps is None:
            # A random network has no completeness that would be worth doubling the steps for.
            self._settings = replace(settings, steps=FIRST_STEPS)
        self._explained = explained
        self._max_depths, self._seed = max_depths, seed
        self._depths: list[Depth] = []
        self._num_layers = 0
        self.evaluations = 0

    def steps(self) -> Steps:
        """Run, yielding after each device step; making the random copy of the network is the first.

        Raises:
            UnsupportedOption: The network has nothing to randomize.
        """
        cascade = Cascade(self._question.classifier, self._question.x_1CHW, seed=self._seed)
        self._num_layers = len(cascade.layers)
        chosen = spread_depths(self._num_layers, self._max_depths)
        total = PARTS * len(chosen)
        yield 0, total
        for index, depth in enumerate(chosen):
            for number in range(cascade.depth + 1, depth + 1):
                cascade.randomize(number)
                yield PARTS * index, total
            method = self._method(cascade)
            for done, of in method.steps():
                yield PARTS * index + min(PARTS - 1, PARTS * done // max(1, of)), total
            self.evaluations += method.evaluations
            map_HW = yield from aside(method.best_map, (PARTS * (index + 1) - 1, total))
            self._add(cascade.layers[depth - 1], depth, map_HW)
            yield PARTS * (index + 1), total

    @property
    def has_estimate(self) -> bool:
        """Whether a depth is complete."""
        return bool(self._depths)

    def best(self) -> Sanity:
        """Give what the depths so far show; unless they reach the first layer, the verdict is open."""
        similarities = [depth.similarity for depth in self._depths]
        judgement = judge(
            np.array([similarities]),
            layers=[depth.layer for depth in self._depths],
            num_random=[depth.num_layers for depth in self._depths],
            num_layers=self._num_layers,
            num_pixels=self._explained.attribution_HW.size,
            says_nothing=is_flat(self._explained.attribution_HW),
        )
        return Sanity(self._explained.attribution_HW, tuple(self._depths), self._num_layers, judgement)

    def _method(self, cascade: Cascade) -> Attributor:
        # Nothing that the trained network answered may be remembered, but for how the image was cut.
        segments_HW = self._question.segments_HW if self._explained.segments_HW is None else self._explained.segments_HW
        question = replace(
            self._question,
            classifier=cascade.classifier,
            forward=None,
            targets=(self._question.target,),
            memo={},
            segments_HW=segments_HW,
        )
        return attributor(question, self._settings)

    def _add(self, layer: str, num_layers: int, attribution_HW: NDArray[np.float32]) -> None:
        alike = similarity(self._explained.attribution_HW, attribution_HW)
        self._depths.append(Depth(layer, num_layers, alike, attribution_HW))
