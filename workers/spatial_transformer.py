"""Spatial transformer: where the network looked, the straightened image, and its class.

Shape suffixes: N images, C channels, H height, W width, K classes; 23 an affine matrix (2, 3), 42 four corners (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.geometry import input_xy_to_original_xy
from models.loading import parity_images
from models.preprocess import Preprocess
from visionpipe.errors import ModelLoadError
from visionpipe.schemas.requests import SpatialTransformerOptions
from visionpipe.schemas.results import ClassScore, SpatialTransformerResult
from workers.classification import agrees
from workers.encoding import png
from workers.hosted import HostedModel
from workers.labels import label_of
from workers.runtime import Answer, Runtime
from workers.work import Work

MAX_DELTA_THETA = 0.03
"""Largest difference in any entry of theta that a faster precision may make: 1.5 % of the input's side."""

_CORNERS_42 = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


class _Outputs(NamedTuple):
    """What one micro-batch gave, on the CPU."""

    probabilities: Tensor
    theta: Tensor
    rectified: Tensor


class SpatialTransformerRuntime(Runtime):
    """Networks that give logits (N, K), theta (N, 2, 3) and the rectified input (N, C, h, w) in one call."""

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self._preprocess = Preprocess(hosted.card.preprocess)

    def prepare(self, work: Work) -> None:
        """Make the network's input, float32 (C, H, W)."""
        assert work.image is not None
        work.prepared = self._preprocess(work.image.image)
        work.num_pixels = work.prepared.numel()
        work.key = tuple(work.prepared.shape)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Work]) -> _Outputs:
        """Attend and classify one micro-batch."""
        return self._outputs(self.hosted.to_input(torch.stack([work.prepared for work in batch])), self.hosted.fast)

    def results(self, outputs: _Outputs, batch: Sequence[Work]) -> list[Answer]:
        """Give each image its classes and where they were seen; encoding the rectified image is left for later."""
        k = min(max(_options(work).top_k for work in batch), outputs.probabilities.shape[1])
        scores, ids = outputs.probabilities.topk(k, dim=1)
        rows = zip(batch, scores.tolist(), ids.tolist(), outputs.theta, outputs.rectified, strict=True)
        return [self._answer(*row) for row in rows]

    def _answer(
        self, work: Work, scores: list[float], ids: list[int], theta_23: Tensor, rectified_CHW: Tensor
    ) -> Answer:
        if not np.isfinite(scores).all() or not bool(theta_23.isfinite().all()):
            return ArithmeticError(f"{self.hosted.card.name} gave numbers that are not finite")
        options = _options(work)
        assert work.size_wh is not None
        height, width = work.prepared.shape[-2:]
        input_xy = _to_pixels(theta_23.double().numpy(), size_wh=(width, height))
        preprocessing = self.hosted.card.preprocess
        quad_42 = input_xy_to_original_xy(input_xy, size_wh=work.size_wh, preprocessing=preprocessing)
        named = [
            ClassScore(class_id=class_id, label=label_of(self.hosted.card, class_id), score=min(max(score, 0.0), 1.0))
            for score, class_id in zip(scores[: options.top_k], ids, strict=False)
        ]
        result = SpatialTransformerResult(
            image_size_wh=work.size_wh, classes=named, theta=_rows(theta_23.tolist()), quad_xy=_rows(quad_42.tolist())
        )
        if not options.rectified:
            return result
        levels = self._levels(rectified_CHW)
        return lambda: result.model_copy(update={"rectified": work.keep(png(levels), "image/png")})

    def _levels(self, rectified_CHW: Tensor) -> NDArray[np.uint8]:
        """Undo the normalisation; gives uint8 of shape (H, W) or (H, W, 3)."""
        preprocessing = self.hosted.card.preprocess
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        levels_CHW = ((rectified_CHW * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        levels: NDArray[np.uint8] = levels_CHW.permute(1, 2, 0).numpy()
        return levels[..., 0] if levels.shape[2] == 1 else levels

    def _outputs(self, inputs_NCHW: Tensor, network: nn.Module) -> _Outputs:
        told: Any = network(inputs_NCHW)
        if self.hosted.hooks.postprocess is not None:
            told = self.hosted.hooks.postprocess(told)
        shapes = [tuple(part.shape) for part in told] if isinstance(told, (tuple, list)) else [tuple(told.shape)]
        num, channels = inputs_NCHW.shape[:2]
        labels = len(self.hosted.card.labels)
        if not (
            len(shapes) == 3
            and (len(shapes[0]) == 2 and shapes[0][0] == num and (not labels or shapes[0][1] == labels))
            and shapes[1] == (num, 2, 3)
            and (len(shapes[2]) == 4 and shapes[2][:2] == (num, channels))
        ):
            raise ModelLoadError(
                f"Expected logits (N, {labels or 'K'}), theta (N, 2, 3) and the rectified input (N, {channels}, h, w) "
                f"from {self.hosted.card.name} for {num} inputs, got shapes {shapes}. Mend the network, the card's "
                "labels or its postprocess hook."
            )
        logits_NK, theta_N23, rectified_NCHW = told
        return _Outputs(
            logits_NK.float().softmax(dim=1).cpu(), theta_N23.float().cpu(), rectified_NCHW.float().contiguous().cpu()
        )

    @torch.inference_mode()
    def warm_up(self, num_images: int) -> None:
        """Run one micro-batch of a blank picture."""
        if self.hosted.hooks.preprocess is not None:
            raise ModelLoadError(
                f"Expected {self.hosted.card.name} to describe its preprocessing in its card, got a preprocess hook: "
                "the attended region could not be found in the original image."
            )
        height, width = self.hosted.card.preprocess.input_size_hw or (256, 256)
        blank = self._preprocess(Image.new("RGB", (width, height)))
        self._outputs(self.hosted.to_input(blank.expand(num_images, *blank.shape).contiguous()), self.hosted.fast)

    @torch.inference_mode()
    def parity(self, precision: str) -> bool:
        """Compare probabilities and theta with fp32 on the card's parity inputs."""
        inputs = [self._preprocess(picture)[None] for picture in parity_images(self.hosted.entry)]
        network = self.hosted.in_precision(precision)
        dtype = next(network.parameters(), torch.zeros(0)).dtype
        device = self.hosted.device.torch_device
        exact = [self._outputs(x.to(device), self.hosted.master) for x in inputs]
        quick = [self._outputs(x.to(device, dtype), network) for x in inputs]
        return agrees(*(torch.cat([one.probabilities for one in told]) for told in (exact, quick))) and looks_alike(
            *(torch.cat([one.theta for one in told]) for told in (exact, quick))
        )


def looks_alike(exact_N23: Tensor, quick_N23: Tensor) -> bool:
    """Whether two sets of matrices attend to the same places, within the stated tolerance."""
    # Written so that a NaN disagrees.
    return bool((exact_N23 - quick_N23).abs().max() <= MAX_DELTA_THETA)


def _to_pixels(theta_23: NDArray[np.float64], *, size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Find the corners of the rectified image in pixels of the input: float64 (4, 2), as ``QuadXy`` orders them."""
    input_42 = _CORNERS_42 @ theta_23[:, :2].T + theta_23[:, 2]
    pixels_42: NDArray[np.float64] = (input_42 + 1) / 2 * np.asarray(size_wh)
    return pixels_42


def _rows(table: list[list[float]]) -> Any:
    return tuple(map(tuple, table))


def _options(work: Work) -> SpatialTransformerOptions:
    assert isinstance(work.request.options, SpatialTransformerOptions)
    return work.request.options


RUNTIME = SpatialTransformerRuntime
