"""Segmentation's input: the picture at the network's scale, and the tiles it is taken in.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models import geometry, tiling
from models.cards import Card
from models.preprocess import RESAMPLING, Preprocess
from visionpipe.errors import ImageTooLargeError, InvalidRequestError, ModelLoadError
from visionpipe.schemas.requests import SegmentationOptions
from workers.hosted import HostedModel
from workers.labels import class_ids

MAX_INPUT_PIXELS = 2**27
"""Pixels of a picture after scaling; 10000x10000 is fewer."""
MULTIPLE_PX_OF_SMP = 32
"""What segmentation-models-pytorch asks of an input's sides, unless the card says otherwise."""


@dataclass
class Prepared:
    """One picture, ready to be cut."""

    values: NDArray[Any]
    """Shape (C, H, W): grey levels or colours, uint8; or float32 from the owner's own preprocessing."""
    grid: tiling.Grid
    """Its tiles."""
    wanted: frozenset[int] | None
    """The classes to report; ``None`` for all."""
    is_plain: bool = False
    """Whether each pixel's best class and its probability are all that is needed of the answer."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.grid.y.length, self.grid.x.length

    def cut(self, tiles: Sequence[tiling.Tile]) -> Tensor:
        """Cut tiles; shape (N, C, H, W), dtype of the values."""
        return tiling.stack(self.grid, self.values, tiles)


class Inputs:
    """Reads pictures for one model.

    Args:
        hosted: The model.

    Raises:
        ModelLoadError: Its card crops pictures, so that no answer could cover all of one.
    """

    def __init__(self, hosted: HostedModel) -> None:
        self._card = hosted.card
        self._own = hosted.hooks.preprocess
        self._preprocess = Preprocess(hosted.card.preprocess)
        if hosted.card.preprocess.crop is not None:
            raise ModelLoadError(
                f"Expected no crop in the preprocessing of {hosted.card.name}, since segmentation answers for every "
                f"pixel; got {hosted.card.preprocess.crop}. Leave it out of the card."
            )

    def prepare(self, image: Image.Image, options: SegmentationOptions) -> Prepared:
        """Scale a picture, and lay out its tiles.

        Raises:
            InvalidRequestError: An option does not fit the model.
            ImageTooLargeError: The picture would have too many pixels once scaled.
        """
        wanted = None if options.classes is None else frozenset(class_ids(self._card, options.classes))
        values_CHW = self._values(image, options.scale)
        grid = tiling.plan(
            (values_CHW.shape[2], values_CHW.shape[1]),
            tile_px=options.tile_px or self._card.segmentation.tile_px,
            overlap=options.tile_overlap,
            multiple_px=multiple_px(self._card),
        )
        return Prepared(values_CHW, grid, wanted)

    def normalised(self, values_NCHW: Tensor) -> Tensor:
        """Make the network's input of what was cut, float32."""
        return self._preprocess.normalise(values_NCHW) if values_NCHW.dtype == torch.uint8 else values_NCHW

    def _values(self, image: Image.Image, scale: float) -> NDArray[Any]:
        if self._own is not None:
            if scale != 1:
                raise InvalidRequestError(
                    f"Expected a scale of 1, got {scale}: {self._card.name} brings its own preprocessing.",
                    fields=["scale"],
                )
            own: NDArray[Any] = self._own(image).numpy()
            return own
        preprocessing = self._card.preprocess
        if image.mode != preprocessing.mode:
            image = image.convert(preprocessing.mode)
        width, height = geometry.resized_size_wh(image.size, preprocessing)
        size_wh = max(1, round(width * scale)), max(1, round(height * scale))
        if size_wh[0] * size_wh[1] > MAX_INPUT_PIXELS:
            raise ImageTooLargeError(
                f"Expected at most {MAX_INPUT_PIXELS} pixels once scaled, got {size_wh[0]}x{size_wh[1]}. Use a smaller "
                "scale.",
                fields=["scale"],
            )
        if size_wh != image.size:
            image = image.resize(size_wh, RESAMPLING[preprocessing.interpolation])
        levels_HWC = np.asarray(image).reshape(image.height, image.width, len(preprocessing.mode))
        return np.ascontiguousarray(levels_HWC.transpose(2, 0, 1))


def multiple_px(card: Card) -> int:
    """What the sides of a network's input are padded to multiples of."""
    stated = "multiple_px" in card.segmentation.model_fields_set
    return MULTIPLE_PX_OF_SMP if card.network.startswith("smp:") and not stated else card.segmentation.multiple_px
