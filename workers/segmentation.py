"""Segmentation: the class of every pixel, and the single objects.

Shape suffixes: N images or tiles, C channels, K classes, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from models.loading import parity_images
from models.tiling import Band, Blender, Tile
from visionpipe.errors import ModelLoadError
from visionpipe.schemas.jobs import Progress
from visionpipe.schemas.requests import SegmentationOptions
from visionpipe.schemas.results import SegmentationResult
from workers.cuda_copies import Pending
from workers.device import free_memory, is_out_of_memory
from workers.fitting import fitted
from workers.hosted import Answering, HostedModel
from workers.runtime import Answer, Runtime
from workers.segmentation_input import Inputs, Prepared
from workers.segmentation_maps import MAX_PLAIN_CLASSES, Maps, best, check_probabilities, finished
from workers.work import Work

STEP_S = 0.25
"""A step takes so many tiles that it lasts no longer than about this."""
MIN_MARGIN = 0.04
"""A faster precision must name the same class wherever fp32 leads by more than this ..."""
MIN_AGREEMENT = 0.999
"""... at so large a share of those pixels ..."""
MAX_MEAN_DELTA_P = 0.01
"""... and its probabilities may differ by this much, averaged over all pixels."""
MAX_USUAL_PX = 1024
"""Tiles with longer sides hold whole pictures, of sides that only the pictures tell."""
_WARM_SIDE_PX = 256

Probabilities = NDArray[np.float32]


class SegmentationRuntime(Runtime):
    """Softmax over the logits (N, K, H, W), by itself or in the field ``out``; one channel means a sigmoid."""

    def __init__(self, hosted: HostedModel) -> None:
        super().__init__(hosted)
        self._inputs = Inputs(hosted)
        self._num_classes = len(hosted.card.labels)
        self._s_per_value = 0.0

    def prepare(self, work: Work) -> None:
        """Make the picture's values at the network's scale; what takes several tiles is long work."""
        assert work.image is not None
        assert work.size_wh is not None
        options = _options(work)
        prepared = self._inputs.prepare(work.image.image, options)
        if options.probabilities:
            check_probabilities(work.size_wh, self._num_classes)
        work.prepared = prepared
        work.is_long = len(prepared.grid.tiles) > 1
        channels = prepared.values.shape[0]
        prepared.is_plain = self._is_plain(work, prepared)
        work.key = (channels, *prepared.grid.tile_hw, prepared.is_plain)
        work.num_pixels = prepared.values.size if work.is_long else channels * int(np.prod(prepared.grid.tile_hw))

    def forward(self, batch: Sequence[Work]) -> Tensor | Pending:
        """Give probabilities, float32 (N, K, H, W), or what ``best`` makes of them, on the CPU or on their way there.

        Padding is included.
        """
        outputs = self._compute(torch.cat([work.prepared.cut([Tile(0, 0)]) for work in batch]))
        return self.hosted.copies.fetch(best(outputs) if batch[0].prepared.is_plain else outputs)

    def results(self, outputs: Tensor, batch: Sequence[Work]) -> list[Answer]:
        """Leave maps, objects and encoding to the finishing threads."""
        return [partial(self._whole, work, output_XHW) for work, output_XHW in zip(batch, outputs.numpy(), strict=True)]

    def steps(self, work: Work) -> Generator[Progress, None, Answer]:
        """Segment a large picture a few tiles at a time; a stopped one lacks the rows at the bottom."""
        prepared: Prepared = work.prepared
        total, done, busy_s = len(prepared.grid.tiles), 0, 0.0
        blender: Blender | None = None
        for tiles in prepared.grid.batches(self._tiles_per_step(prepared)):
            if work.stopping:
                break
            started = time.monotonic()
            outputs = self._predict_tiles(prepared, tiles)
            if blender is None:
                blender, maps = Blender(prepared.grid, outputs.shape[1]), self._maps(work, outputs.shape[1])
            for tile, probabilities_KHW in zip(tiles, outputs, strict=True):
                band = blender.add(tile, probabilities_KHW)
                if band is not None:
                    maps.add(band)
            done, busy_s = done + len(tiles), busy_s + time.monotonic() - started
            yield Progress(done=done, total=total, note=f"tile {done} of {total}", eta_s=(total - done) * busy_s / done)
        if blender is None:
            maps = self._maps(work, self._num_classes)
        work.prepared = None
        return partial(self._finished, work, maps, prepared.wanted, num_tiles=total, is_partial=done < total)

    def estimate(self, work: Work) -> Progress:
        """Count the tiles, and guess their time from warm-up's."""
        grid = work.prepared.grid
        values = work.prepared.values.shape[0] * int(np.prod(grid.tile_hw)) * len(grid.tiles)
        return Progress(total=len(grid.tiles), note="waiting", eta_s=values * self._s_per_value or None)

    def warm_up(self, num_images: int) -> None:
        """Run one micro-batch of a blank picture, and note what a value costs."""
        side_px = min(_WARM_SIDE_PX, self.hosted.card.segmentation.tile_px)
        blank = Image.new("RGB", (side_px, side_px))
        prepared = self._inputs.prepare(blank, SegmentationOptions(tile_px=8192))
        inputs = prepared.cut([Tile(0, 0)]).expand(num_images, -1, -1, -1)
        started = time.monotonic()
        self._num_classes = self._predict(inputs).shape[1]
        cost = (time.monotonic() - started) / inputs.numel()
        self._s_per_value = min(self._s_per_value or cost, cost)

    @property
    def answering(self) -> Answering:
        """The whole network."""
        return self.hosted.answering

    def usual_shape(self) -> tuple[int, int, int] | None:
        """That of a tile; models whose tiles are as large as most pictures have none."""
        tile_px = self.hosted.card.segmentation.tile_px
        usable = tile_px <= MAX_USUAL_PX and self.hosted.hooks.preprocess is None
        return (len(self.hosted.card.preprocess.mode), tile_px, tile_px) if usable else None

    @torch.inference_mode()
    def checks(self, compiled: Callable[[Tensor], Any], shape_CHW: tuple[int, ...]) -> Iterator[bool]:
        """Compare classes and probabilities with fp32 on one parity input after the other."""
        for picture in parity_images(self.hosted.entry):
            values_NCHW = fitted(self._parity_values(picture)[0], shape_CHW)[None]
            yield self._agree(values_NCHW, compiled, self.hosted.device.dtype)

    def parity(self, precision: str) -> bool:
        """Compare classes and probabilities with fp32 on the card's parity inputs."""
        network = self.hosted.in_precision(precision)
        dtype = next(network.parameters(), torch.zeros(0)).dtype
        return all(
            self._agree(self._parity_values(picture), network, dtype) for picture in parity_images(self.hosted.entry)
        )

    def _parity_values(self, picture: Image.Image) -> Tensor:
        return self._inputs.prepare(picture, SegmentationOptions(tile_px=8192)).cut([Tile(0, 0)])

    @torch.inference_mode()
    def _agree(self, values_NCHW: Tensor, network: Callable[[Tensor], Any], dtype: torch.dtype) -> bool:
        inputs_NCHW = self._inputs.normalised(values_NCHW).to(self.hosted.device.torch_device)
        quick_NCHW = inputs_NCHW.to(dtype).contiguous(memory_format=torch.channels_last)
        exact = self._probabilities(inputs_NCHW, self.hosted.master)
        return agrees(exact.cpu(), self._probabilities(quick_NCHW, network).cpu())

    @torch.inference_mode()
    def _compute(self, values_NCHW: Tensor) -> Tensor:
        # Levels are a quarter of the bytes of what they become.
        there_NCHW = self.hosted.copies.move(values_NCHW)
        return self._probabilities(self.hosted.to_input(self._inputs.normalised(there_NCHW)), self.hosted.answering)

    def _predict(self, values_NCHW: Tensor) -> Probabilities:
        outputs: Probabilities = self._compute(values_NCHW).cpu().numpy()
        return outputs

    def _predict_tiles(self, prepared: Prepared, tiles: Sequence[Tile]) -> Probabilities:
        try:
            return self._predict(prepared.cut(tiles))
        except (RuntimeError, MemoryError) as error:
            if len(tiles) == 1 or not is_out_of_memory(error):
                raise
        free_memory(self.hosted.device.torch_device)
        middle = len(tiles) // 2
        return np.concatenate([self._predict_tiles(prepared, half) for half in (tiles[:middle], tiles[middle:])])

    def _probabilities(self, inputs_NCHW: Tensor, network: Callable[[Tensor], Any]) -> Tensor:
        outputs: Any = network(inputs_NCHW)
        if self.hosted.hooks.postprocess is not None:
            outputs = self.hosted.hooks.postprocess(outputs)
        logits = outputs["out"] if isinstance(outputs, Mapping) else outputs
        labels, expected = len(self.hosted.card.labels), tuple(inputs_NCHW.shape[-2:])
        num_classes = 2 if logits.ndim == 4 and logits.shape[1] == 1 else logits.shape[1 % logits.ndim]
        if logits.ndim != 4 or tuple(logits.shape[-2:]) != expected or (labels and num_classes != labels):
            raise ModelLoadError(
                f"Expected logits of shape (N, {labels or 'K'}, {expected[0]}, {expected[1]}) from "
                f"{self.hosted.card.name}, got {tuple(logits.shape)}. Mend the network, the card's labels or its "
                "postprocess hook."
            )
        if logits.shape[1] == 1:
            # A sigmoid is the softmax over this logit and 0.
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        probabilities: Tensor = logits.float().softmax(dim=1)
        return probabilities.contiguous()

    def _tiles_per_step(self, prepared: Prepared) -> int:
        tile_s = prepared.values.shape[0] * float(np.prod(prepared.grid.tile_hw)) * self._s_per_value
        return max(1, min(int(STEP_S / max(tile_s, 1e-9)), self.hosted.card.serving.max_batch))

    def _maps(self, work: Work, num_classes: int) -> Maps:
        assert work.size_wh is not None
        background = self.hosted.card.segmentation.background
        return Maps(work.prepared.size_hw, work.size_wh, num_classes, background=background, options=_options(work))

    def _is_plain(self, work: Work, prepared: Prepared) -> bool:
        """Whether each pixel's best class is all that is needed, at the network's scale."""
        options, size_hw = _options(work), prepared.size_hw
        wanted = options.probabilities or options.score_threshold > 0
        return not wanted and size_hw[::-1] == work.size_wh and 0 < self._num_classes <= MAX_PLAIN_CLASSES

    def _whole(self, work: Work, output_XHW: NDArray[Any]) -> SegmentationResult:
        height, width = work.prepared.size_hw
        output_XHW = output_XHW[:, :height, :width]
        if work.prepared.is_plain:
            maps = self._maps(work, self._num_classes)
            maps.take(*output_XHW)
        else:
            maps = self._maps(work, len(output_XHW))
            maps.add(Band(0, output_XHW))
        return self._finished(work, maps, work.prepared.wanted)

    def _finished(
        self,
        work: Work,
        maps: Maps,
        wanted: frozenset[int] | None,
        *,
        num_tiles: int = 1,
        is_partial: bool = False,
    ) -> SegmentationResult:
        return finished(
            work, maps, self.hosted.card, _options(work), wanted=wanted, num_tiles=num_tiles, partial=is_partial
        )


def agrees(exact_NKHW: Tensor, quick_NKHW: Tensor) -> bool:
    """Whether two sets of probabilities give the same answers, within the stated tolerance."""
    # Written so that a NaN disagrees.
    if not bool((exact_NKHW - quick_NKHW).abs().mean() <= MAX_MEAN_DELTA_P):
        return False
    top = exact_NKHW.topk(min(2, exact_NKHW.shape[1]), dim=1).values
    clear = top[:, 0] - top[:, -1] > MIN_MARGIN
    same = (exact_NKHW.argmax(dim=1) == quick_NKHW.argmax(dim=1))[clear]
    return not len(same) or bool(same.float().mean() >= MIN_AGREEMENT)


def _options(work: Work) -> SegmentationOptions:
    assert isinstance(work.request.options, SegmentationOptions)
    return work.request.options


RUNTIME = SegmentationRuntime
