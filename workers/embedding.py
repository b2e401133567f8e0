"""Embedding: an image's features, taken from any layer of a network and pooled to one vector.

Shape suffixes: N images, C channels, H height, W width, D features.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from models.errors import ModelError, UnknownLayer
from models.features import INPUT, Features, Pooling, check_layer, default_layer
from models.loading import parity_images
from models.parity import synthetic
from models.preprocess import Preprocess
from visionpipe.errors import InvalidRequestError, ModelLoadError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.requests import EmbeddingOptions
from visionpipe.schemas.results import EmbeddingResult
from workers.cuda_copies import Pending
from workers.fitting import fitted
from workers.hosted import Answering, HostedModel
from workers.runtime import Answer, Runtime
from workers.work import Work

MAX_INLINE_VALUES = 65_536
"""Longer vectors do not stand in the result, only beside it."""
MIN_COSINE = 0.99
"""Least cosine similarity with fp32 of the features that a faster precision may give."""
MAX_NORM_CHANGE = 0.05
"""Largest relative change of their L2 norm."""
NPY = "application/x-npy"
"""Media type of a vector as an artifact."""


POOLING: Pooling = "avg"
"""The pooling that requests have unless they say otherwise."""


class PooledFeatures(nn.Module):
    """Inputs (N, C, H, W) give float32 features (N, D) of one layer.

    Args:
        network: In eval mode.
        layer: As for ``Features``.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network = network
        self._layer = layer

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Run the network, and pool what its layer gives."""
        return Features(self.network, self._layer, POOLING)(x_NCHW)


class EmbeddingRuntime(Runtime):
    """Pooled features of the network's layers."""

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self._reference = Preprocess(hosted.card.preprocess)
        self._preprocess = hosted.hooks.preprocess or self._reference
        self._usual: Answering | None = None

    @cached_property
    def layer(self) -> str:
        """Where features are taken unless the request says otherwise: the card's word, or what enters the head."""
        if self.hosted.card.embedding is not None:
            return self.hosted.card.embedding.layer
        probe = self._preprocess(synthetic(0))[None].to(self.hosted.device.torch_device)
        return default_layer(self.hosted.master, probe)

    def prepare(self, work: Work) -> None:
        """Make levels, uint8 (C, H, W), or what the owner's own code gives, float32.

        Images of one layer, pooling and shape may share a batch.
        """
        assert work.image is not None
        options = _options(work)
        if options.layer is not None:
            check_layer(self.hosted.master, options.layer)
        own = self.hosted.hooks.preprocess
        work.prepared = self._reference.levels_array(work.image.image) if own is None else own(work.image.image)
        shape_CHW = tuple(work.prepared.shape)
        work.num_pixels = math.prod(shape_CHW)
        work.key = (options.layer, options.pooling, shape_CHW)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Work]) -> Tensor | Pending:
        """Give features, float32 (N, D), on the CPU or on their way there."""
        inputs_NCHW = self.hosted.copies.stack([work.prepared for work in batch])
        if inputs_NCHW.dtype == torch.uint8:
            inputs_NCHW = self._reference.normalise(inputs_NCHW)
        options = _options(batch[0])
        layer = options.layer or self.layer
        usual = (layer, options.pooling) == (self.layer, POOLING)
        features = self.answering if usual else Features(self._network(layer), layer, options.pooling)
        return self.hosted.copies.fetch(features(self.hosted.to_input(inputs_NCHW)))

    @property
    def answering(self) -> Answering:
        """The features that are asked for unless a request says otherwise."""
        network = self._network(self.layer)
        if self._usual is None or self._usual.eager.network is not network:
            pooled = PooledFeatures(network, self.layer)
            self._usual = Answering(pooled, part="features", dtype=self.hosted.device.dtype)
        return self._usual

    def _network(self, layer: str) -> nn.Module:
        return self.hosted.unfolded if layer.removesuffix(INPUT) in self.hosted.folded else self.hosted.fast

    @torch.inference_mode()
    def checks(self, compiled: Callable[[Tensor], Any], shape_CHW: tuple[int, ...]) -> Iterator[bool]:
        """Compare features with fp32 on one parity input after the other."""
        for picture in parity_images(self.hosted.entry):
            input_1CHW = fitted(self._preprocess(picture), shape_CHW)[None]
            there_1CHW = input_1CHW.to(self.hosted.device.torch_device, self.hosted.device.dtype)
            quick_1CHW = there_1CHW.contiguous(memory_format=torch.channels_last)
            yield agrees(self._features(self.hosted.master, input_1CHW), compiled(quick_1CHW).cpu())

    def results(self, outputs: Tensor, batch: Sequence[Work]) -> list[Answer]:
        """Give each image its vector; writing it beside the result is left for later."""
        norms = outputs.double().norm(dim=1).tolist()
        rows = zip(batch, outputs, norms, strict=True)
        return [self._answer(work, vector, norm) for work, vector, norm in rows]

    def _answer(self, work: Work, vector_D: Tensor, norm: float) -> Answer:
        options = _options(work)
        if not math.isfinite(norm):
            return ArithmeticError(f"{self.hosted.card.name} gave features that are not finite")
        if options.normalize and norm > 0:
            vector_D = vector_D / norm
        result = partial(
            EmbeddingResult,
            image_size_wh=work.size_wh,
            dimensions=len(vector_D),
            layer=options.layer or self.layer,
            normalized=options.normalize,
            norm=norm,
        )
        if options.as_artifact:
            return lambda: result(artifact=_keep(vector_D, work.keep))
        if len(vector_D) > MAX_INLINE_VALUES:
            return InvalidRequestError(
                f"Expected at most {MAX_INLINE_VALUES} numbers in a result, got {len(vector_D)} from "
                f"{options.layer or self.layer}. Ask for as_artifact, or for the pooling 'avg' or 'max'.",
                fields=["options.as_artifact", "options.pooling"],
            )
        return result(vector=vector_D.tolist())

    @torch.inference_mode()
    def warm_up(self, num_images: int) -> None:
        """Run one micro-batch of a blank picture through the default layer."""
        height, width = self.hosted.card.preprocess.input_size_hw or (256, 256)
        blank = self._preprocess(Image.new("RGB", (width, height)))
        inputs_NCHW = self.hosted.to_input(blank.expand(num_images, *blank.shape).contiguous())
        try:
            self.answering(inputs_NCHW)
        except UnknownLayer as error:
            raise ModelLoadError(f"{self.hosted.card.name}: embedding.layer: {error.message}") from error
        except ModelError as error:
            raise ModelLoadError(f"{self.hosted.card.name}: {error.message}") from error

    @torch.inference_mode()
    def parity(self, precision: str) -> bool:
        """Compare features with fp32 on the card's parity inputs."""
        inputs = [self._preprocess(picture)[None] for picture in parity_images(self.hosted.entry)]
        network = self.hosted.in_precision(precision)
        dtype = next(network.parameters(), torch.zeros(0)).dtype
        exact, quick = (
            torch.cat([self._features(some, x.to(some_dtype)) for x in inputs])
            for some, some_dtype in ((self.hosted.master, torch.float32), (network, dtype))
        )
        return agrees(exact, quick)

    def _features(self, network: nn.Module, input_1CHW: Tensor) -> Tensor:
        return Features(network, self.layer)(input_1CHW.to(self.hosted.device.torch_device)).cpu()


def agrees(exact: Tensor, quick: Tensor) -> bool:
    """Whether two sets of features (N, D) point the same way and are as long, within the stated tolerance."""
    similarity = nn.functional.cosine_similarity(exact, quick, dim=1)
    norms, others = exact.norm(dim=1), quick.norm(dim=1)
    # Written so that a NaN disagrees; two vectors of zeros agree.
    same = (similarity >= MIN_COSINE) & ((others - norms).abs() <= MAX_NORM_CHANGE * norms)
    return bool((same | ((norms == 0) & (others == 0))).all())


def _keep(vector_D: Tensor, keep: Callable[[bytes, str], ArtifactRef]) -> ArtifactRef:
    stream = io.BytesIO()
    np.save(stream, vector_D.numpy())
    return keep(stream.getvalue(), NPY)


def _options(work: Work) -> EmbeddingOptions:
    assert isinstance(work.request.options, EmbeddingOptions)
    return work.request.options


RUNTIME = EmbeddingRuntime
