"""The loss of a painting and its gradient, a device step at a time.

Gram matrices are sums over positions. So a picture in several tiles takes two passes: the first gives its Gram
matrices, and with them the gradient of the style's term; the second takes that gradient back to the pixels, tile by
tile. Memory depends on the tile alone, and the outcome is that of the whole picture.

Shape suffixes: 1 one image, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from models.gatys import tiles
from models.gatys.encoder import Encoder
from models.gatys.losses import StyleTarget, Terms, Weights, gram, norm, relative, style_loss, total_variation
from models.gatys.tiles import Tile


class Objective:
    """What a painting should come near to.

    Args:
        encoder: Gives the features.
        weights: Of the terms and layers.
        max_pixels: Most pixels of one device step.

    Raises:
        UnknownLayer: The encoder lacks a layer that the weights name.
    """

    def __init__(self, encoder: Encoder, weights: Weights, *, max_pixels: int) -> None:
        encoder.check([*weights.for_content, *weights.for_style])
        self.encoder = encoder
        self.weights = weights
        self.max_pixels = max_pixels
        self._styles: list[StyleTarget] = []
        self._content: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}

    @property
    def layers(self) -> frozenset[str]:
        """Every layer whose features matter."""
        return frozenset(self.weights.for_content) | frozenset(self.weights.for_style)

    def divide(self, size_hw: tuple[int, int]) -> list[Tile]:
        """Plan the device steps of one pass over a picture."""
        reaches = [self.encoder.reach[name] for name in self.layers]
        return tiles.plan(size_hw, reaches, self.max_pixels)

    @property
    def least_px(self) -> int:
        """Fewest pixels each way from which every layer has a feature."""
        return max((self.encoder.reach[name].stride for name in self.layers), default=1)

    def cost_pixels(self, size_hw: tuple[int, int]) -> float:
        """What one evaluation costs, in pixels that are evaluated at once."""
        pieces = self.divide(size_hw)
        # In several tiles the forward pass, a third of the cost, is made twice.
        return tiles.num_pixels(pieces) * (4 / 3 if len(pieces) > 1 and self.weights.for_style else 1)

    def add_style(self, picture_1CHW: Tensor, share: float) -> Generator[None]:
        """Measure a style, values in [0, 1]; yields after each device step."""
        if self.weights.for_style:
            grams = yield from self._grams(picture_1CHW)
            self._styles.append(StyleTarget(grams, share))

    def set_content(self, picture_1CHW: Tensor) -> Generator[None]:
        """Measure the content, values in [0, 1]; yields after each device step."""
        layers = self.weights.for_content
        if not layers:
            return
        height, width = picture_1CHW.shape[-2:]
        for tile in self.divide((height, width)):
            with torch.no_grad():
                for name, own in tiles.features(self.encoder, picture_1CHW, tile, layers).items():
                    stride = self.encoder.reach[name].stride
                    whole = self._content.get(name)
                    if whole is None:
                        whole = own.new_empty((1, own.shape[1], height // stride, width // stride))
                        self._content[name] = whole
                    tile.place(whole, stride).copy_(own)
            yield
        self._norms = {name: norm(features) for name, features in self._content.items()}

    def evaluate(self, image_1CHW: Tensor) -> Generator[None, None, Terms]:
        """Evaluate the loss once; adds its gradient to ``image.grad``.

        Args:
            image_1CHW: A leaf that requires a gradient; values in [0, 1].

        Yields:
            After each device step but the last.
        """
        height, width = image_1CHW.shape[-2:]
        pieces = self.divide((height, width))
        if len(pieces) == 1:
            return self._at_once(image_1CHW, pieces[0])
        style = 0.0
        slopes: dict[str, Tensor] = {}
        if self.weights.for_style:
            grams = yield from self._grams(image_1CHW.detach())
            style, slopes = self._slopes(grams)
        content = 0.0
        for piece in pieces:
            content += self._back(image_1CHW, piece, slopes)
            yield
        tv = self.weights.tv * total_variation(image_1CHW)
        tv.backward()  # type: ignore[no-untyped-call]
        return Terms(content, style, float(tv.detach()))

    def _at_once(self, image_1CHW: Tensor, tile: Tile) -> Terms:
        features = self.encoder(image_1CHW, self.layers)
        style = image_1CHW.new_zeros(())
        if layers := self.weights.for_style:
            grams = {name: gram(features[name]) / features[name][0, 0].numel() for name in layers}
            style = self.weights.style * style_loss(grams, self._styles, layers)
        content = self._content_part(features, tile)
        tv = self.weights.tv * total_variation(image_1CHW)
        (style + content + tv).backward()  # type: ignore[no-untyped-call]
        return Terms(*torch.stack([content, style, tv]).tolist())

    def _grams(self, picture_1CHW: Tensor) -> Generator[None, None, dict[str, Tensor]]:
        """Mean products of channels over all positions, by layer; yields after each device step."""
        height, width = picture_1CHW.shape[-2:]
        layers = self.weights.for_style
        sums: dict[str, Tensor] = {}
        for tile in self.divide((height, width)):
            with torch.no_grad():
                for name, own in tiles.features(self.encoder, picture_1CHW, tile, layers).items():
                    sums[name] = sums.get(name, 0) + gram(own)
            yield
        strides = {name: self.encoder.reach[name].stride for name in layers}
        return {name: total / ((height // strides[name]) * (width // strides[name])) for name, total in sums.items()}

    def _slopes(self, grams: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        """The style's term, and its gradient with respect to each Gram matrix."""
        leaves = {name: value.requires_grad_() for name, value in grams.items()}
        style = self.weights.style * style_loss(leaves, self._styles, self.weights.for_style)
        slopes = torch.autograd.grad(style, list(leaves.values()))
        return float(style.detach()), dict(zip(leaves, slopes, strict=True))

    def _back(self, image_1CHW: Tensor, tile: Tile, slopes: dict[str, Tensor]) -> float:
        """Add one tile's share of the gradient; gives its share of the content's term."""
        own = tiles.features(self.encoder, image_1CHW, tile, self.layers)
        content = self._content_part(own, tile)
        total = content
        for name, slope in slopes.items():
            stride = self.encoder.reach[name].stride
            positions = (tile.size_hw[0] // stride) * (tile.size_hw[1] // stride)
            total = total + (slope * gram(own[name])).sum() / positions
        total.backward()  # type: ignore[no-untyped-call]
        return float(content.detach())

    def _content_part(self, own: dict[str, Tensor], tile: Tile) -> Tensor:
        terms: Sequence[Tensor] = [
            share
            * relative(own[name], tile.place(self._content[name], self.encoder.reach[name].stride), self._norms[name])
            for name, share in self.weights.for_content.items()
        ]
        if not terms:
            return next(iter(own.values())).new_zeros(())
        return self.weights.content * torch.stack(list(terms)).sum()
