"""Feature visualization: what units inside a network respond to. Everything is computed by the fp32 network.

Shape suffixes: N images, C channels, H height, W width; 1 one image.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from models.errors import ModelError
from models.visualization import Deconvnet, Maps, peaks
from visionpipe.errors import ModelLoadError
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import FeatureVisualizationOptions, Request
from visionpipe.schemas.results import FeatureVisualizationResult
from workers.feature_visualization_network import InspectedNetwork
from workers.feature_visualization_steps import climb, deconvnet, filter_views
from workers.feature_visualization_views import View, answer, options_of, told
from workers.hosted import HostedModel
from workers.runtime import Answer, Runtime
from workers.work import Work


@dataclass
class _Prepared:
    """What a method with images needs of one."""

    inputs: Tensor
    """The network's input (C, H, W)."""
    original: Image.Image | None = None
    """What patches are cut out of, where they are wanted."""


class FeatureVisualizationRuntime(Runtime):
    """Long work but for ``activations``: those share micro-batches, since they rank folders of any size."""

    is_long = True

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self.network = InspectedNetwork(hosted)

    def takes_long(self, request: Request) -> bool:
        """Whether it asks for more than to rank images."""
        assert isinstance(request.options, FeatureVisualizationOptions)
        return request.options.method != "activations"

    def prepare(self, work: Work) -> None:
        """Check what is asked, and make the network's input where there is an image."""
        options = options_of(work)
        self.network.check(options)
        if work.image is None:
            work.prepared = None
            climbs = options.method == "activation_maximization"
            work.num_pixels = self.network.climb_bytes(options) // 4 if climbs else self.network.probe.numel()
            return
        original = work.image.image
        x_CHW = self.network.preprocess(original)
        keeps = options.method == "deconvnet" and options.patches
        work.prepared = _Prepared(x_CHW, original if keeps else None)
        work.num_pixels = x_CHW.numel() + (original.width * original.height if keeps else 0)
        if options.method == "activations":
            channels = None if options.channels is None else tuple(options.channels)
            chosen = (channels, options.max_channels, options.selection)
            work.key = (tuple(self.network.layers(options)), *chosen, tuple(x_CHW.shape))

    def forward(self, batch: Sequence[Work]) -> list[list[View]]:
        """Give the units of each image with their strongest positions."""
        options = options_of(batch[0])
        x_NCHW = torch.stack([work.prepared.inputs for work in batch]).to(self.network.device)
        with torch.inference_mode():
            maps = Maps(self.network.survey, self.network.layers(options))(x_NCHW)
            found = peaks(maps, channels=options.channels, most=options.max_channels, selection=options.selection)
        return [[View(unit, self.network.box_xyxy(unit, x_NCHW)) for unit in units] for units in found]

    def results(self, outputs: list[list[View]], batch: Sequence[Work]) -> list[Answer]:
        """Tell each image's units, or that its numbers are none."""
        return [self._told(work, views) for work, views in zip(batch, outputs, strict=True)]

    def steps(self, work: Work) -> Generator[Progress, None, Answer]:
        """Do what the method says; see ``feature_visualization_steps``."""
        method = options_of(work).method
        if method == "deconvnet":
            return deconvnet(self.network, work, work.prepared.inputs[None], work.prepared.original)
        if method == "activation_maximization":
            return climb(self.network, work)
        return self._filters(work)

    def estimate(self, work: Work) -> Progress | None:
        """Tell how many steps there will be."""
        options = options_of(work)
        layers = self.network.layers(options)
        num_units = sum(len(self.network.channels(layer, options)) for layer in layers)
        total = options.steps if options.method == "activation_maximization" else num_units
        return Progress(total=total, note=f"{num_units} units of {', '.join(layers)}")

    def warm_up(self, num_images: int) -> None:
        """Look at the network's layers, and take one step of each method that it can do.

        Raises:
            ModelLoadError: It has no channels or units to look at.
        """
        try:
            self.network.measure()
            self._try_out(num_images)
        except ModelError as error:
            raise ModelLoadError(f"{self.hosted.card.name}: feature_visualization: {error.message}") from error

    def parity(self, precision: str) -> bool:
        """Every precision agrees: the fp32 network computes."""
        return True

    def _try_out(self, num_images: int) -> None:
        layer, probe_1CHW = self.network.survey.last(), self.network.probe
        x_NCHW = probe_1CHW.expand(num_images, -1, -1, -1).contiguous()
        maps = Maps(self.network.survey, [layer])(x_NCHW)
        unit = peaks(maps, most=1)[0][0]
        self.network.box_xyxy(unit, probe_1CHW)
        Deconvnet(self.network.survey, [layer], probe_1CHW).project(unit)

    def _told(self, work: Work, views: list[View]) -> Answer:
        if not all(math.isfinite(view.peak.activation) for view in views):
            return ArithmeticError(f"{self.hosted.card.name} gave activations that are not finite")
        return lambda: FeatureVisualizationResult(
            image_size_wh=work.size_wh,
            method=options_of(work).method,
            units=told(work, views, self.network.preprocessing),
            stopped="finished",
        )

    def _filters(self, work: Work) -> Generator[Progress, None, Answer]:
        views = filter_views(self.network, work)
        yield Progress(done=len(views), total=len(views))
        return lambda: answer(work, views, preprocessing=None)


RUNTIME = FeatureVisualizationRuntime
