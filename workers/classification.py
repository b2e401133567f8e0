"""Classification: the most probable classes of an image."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.loading import parity_images
from models.preprocess import Preprocess
from visionpipe.schemas.requests import ClassificationOptions
from workers.cuda_copies import Pending
from workers.fitting import fitted
from workers.hosted import Answering, HostedModel
from workers.labels import label_of
from workers.runtime import Outcome, Runtime, Written
from workers.scaled_decode import answers_both_ways
from workers.work import Work

MAX_DELTA_P = 0.02
"""Largest difference in any probability that a faster precision may make."""
MIN_MARGIN = 0.04
"""Top-1 must agree wherever fp32 leads by more than this."""


class ClassificationRuntime(Runtime):
    """Softmax over the network's logits (N, K)."""

    has_fixed_shape = True

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self._reference = Preprocess(hosted.card.preprocess)
        self._preprocess = hosted.hooks.preprocess or self._reference
        self._enough_px = self._reference.enough_px if hosted.hooks.preprocess is None else None
        self._is_scaling_checked = False
        # What stands before a class's score, which a thousand images share.
        self._class_json = cache(self._make_class_json)

    def enough_px(self) -> int | None:
        """Twice the side that the card resizes to, unless warm-up showed that answers change.

        The owner's own code gets pictures in full.
        """
        return self._enough_px

    def prepare(self, work: Work) -> None:
        """Make the network's input: levels, uint8 (C, H, W), or what the owner's own code gives, float32."""
        if work.prepared is None:
            assert work.image is not None
            work.prepared = self._prepared(work.image.image, work.image.full_wh)
        work.key = tuple(work.prepared.shape)
        work.num_pixels = math.prod(work.key)

    def _prepared(self, image: Image.Image, full_wh: tuple[int, int] | None = None) -> Tensor | NDArray[np.uint8]:
        own = self.hosted.hooks.preprocess
        return self._reference.levels_array(image, full_wh) if own is None else own(image)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Work]) -> Tensor | Pending:
        """Give probabilities, float32 (N, K) in [0, 1], on the CPU or on their way there."""
        return self.hosted.copies.fetch(self._answer([work.prepared for work in batch]))

    def _answer(self, prepared: Sequence[Tensor | NDArray[np.uint8]]) -> Tensor:
        inputs_NCHW = self.hosted.copies.stack(prepared)
        if inputs_NCHW.dtype == torch.uint8:
            # All at once, on the device: four small operations per picture take longer than a small network.
            inputs_NCHW = self._reference.normalise(inputs_NCHW)
        return self._probabilities(self.hosted.to_input(inputs_NCHW))

    def results(self, outputs: Tensor, batch: Sequence[Work]) -> list[Outcome]:
        """Name the most probable classes of each image, or say that its numbers are none."""
        wanted = [_options(work) for work in batch]
        k = min(max(options.top_k for options in wanted), outputs.shape[1])
        scores, ids = outputs.clamp(0, 1).topk(k, dim=1)
        rows = zip(batch, wanted, scores.tolist(), ids.tolist(), outputs.isfinite().all(1).tolist(), strict=True)
        return [
            self._outcome(work, options, row, classes)
            if finite
            else ArithmeticError(f"{self.hosted.card.name} gave logits that are not finite")
            for work, options, row, classes, finite in rows
        ]

    def _outcome(self, work: Work, options: ClassificationOptions, scores: list[float], ids: list[int]) -> Outcome:
        assert work.size_wh is not None
        classes = ",".join(
            [
                f"{self._class_json(class_id)}{score:.9g}}}"
                for rank, (score, class_id) in enumerate(zip(scores[: options.top_k], ids, strict=False))
                if rank == 0 or score >= options.score_threshold
            ]
        )
        size = f"[{work.size_wh[0]},{work.size_wh[1]}]"
        return Written(f'{{"task":"classification","image_size_wh":{size},"classes":[{classes}]}}')

    def _make_class_json(self, class_id: int) -> str:
        return f'{{"class_id":{class_id},"label":{json.dumps(label_of(self.hosted.card, class_id))},"score":'

    def _probabilities(self, inputs: Tensor, network: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        logits: Tensor = self.hosted.classifier(network)(inputs)
        return logits.float().softmax(dim=1)

    def warm_up(self, num_images: int) -> None:
        """Run one micro-batch of a blank picture."""
        height, width = self.hosted.card.preprocess.input_size_hw or (256, 256)
        blank = self._prepared(Image.new("RGB", (width, height)))
        with torch.inference_mode():
            self._answer([blank] * num_images).cpu()
        if self._enough_px is not None and not self._is_scaling_checked:
            self._is_scaling_checked = True
            self._enough_px = self._enough_px if self._scaling_holds(self._enough_px) else None

    @torch.inference_mode()
    def _scaling_holds(self, enough_px: int) -> bool:
        """Whether pictures that are decoded at a part of their size are answered as whole ones are, in fp32."""
        pictures = parity_images(self.hosted.entry)
        answer = partial(self._probabilities, network=self.hosted.master)
        device = self.hosted.device.torch_device
        both = answers_both_ways(pictures, self._reference, enough_px, lambda x_NCHW: answer(x_NCHW.to(device)).cpu())
        return all(agrees(exact, quick) for exact, quick in both)

    @property
    def answering(self) -> Answering:
        """The whole network."""
        return self.hosted.answering

    @torch.inference_mode()
    def checks(self, compiled: Callable[[Tensor], Any], shape_CHW: tuple[int, ...]) -> Iterator[bool]:
        """Compare probabilities with fp32 on one parity input after the other."""
        for picture in parity_images(self.hosted.entry):
            input_1CHW = fitted(self._preprocess(picture), shape_CHW)[None]
            yield self._agree([input_1CHW], compiled, self.hosted.device.dtype)

    def parity(self, precision: str) -> bool:
        """Compare probabilities with fp32 on the card's parity inputs."""
        network = self.hosted.in_precision(precision)
        inputs = [self._preprocess(picture)[None] for picture in parity_images(self.hosted.entry)]
        return self._agree(inputs, network, next(network.parameters(), torch.zeros(0)).dtype)

    @torch.inference_mode()
    def _agree(self, inputs: Sequence[Tensor], network: Callable[[Tensor], Tensor], dtype: torch.dtype) -> bool:
        device = self.hosted.device.torch_device
        exact = torch.cat([self._probabilities(x.to(device), self.hosted.master) for x in inputs])
        moved = (x.to(device, dtype).contiguous(memory_format=torch.channels_last) for x in inputs)
        return agrees(exact.cpu(), torch.cat([self._probabilities(x, network) for x in moved]).cpu())


def agrees(exact: Tensor, quick: Tensor) -> bool:
    """Whether two sets of probabilities (N, K) give the same answers, within the stated tolerance."""
    # Written so that a NaN disagrees.
    if not bool((exact - quick).abs().max() <= MAX_DELTA_P):
        return False
    top = exact.topk(min(2, exact.shape[1]), dim=1).values
    clear = (top[:, 0] - top[:, -1] > MIN_MARGIN) if top.shape[1] == 2 else torch.ones(len(exact), dtype=torch.bool)
    return bool((exact.argmax(1) == quick.argmax(1))[clear].all())


def _options(work: Work) -> ClassificationOptions:
    assert isinstance(work.request.options, ClassificationOptions)
    return work.request.options


RUNTIME = ClassificationRuntime
