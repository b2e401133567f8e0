"""What a style transfer job wishes for, in the words of ``models.gatys``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from models.card_tables import StyleTransferDefaults
from models.gatys import Plan, Style, Weights
from models.gatys.pictures import fitted_size_wh, resized, to_tensor
from models.images import Decoded
from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.images import ImageRef
from visionpipe.schemas.requests import StyleTransferOptions

MAX_STYLE_SIDE_PX = 8192
"""Longest side to which a style is brought."""


@dataclass(frozen=True)
class Pictures:
    """Content and styles, float32 (1, 3, H, W) in [0, 1]."""

    content: Tensor
    styles: list[Style]

    @property
    def num_values(self) -> int:
        """How many values they have together."""
        return self.content.numel() + sum(style.picture.numel() for style in self.styles)


def weights(options: StyleTransferOptions, defaults: StyleTransferDefaults) -> Weights:
    """Take the weights of terms and layers.

    Raises:
        InvalidRequestError: A term has a weight, but none of its layers has.
    """
    wanted = Weights(
        content=options.content_weight,
        style=options.style_weight,
        tv=options.tv_weight,
        content_layers=options.content_layers or defaults.content_layers,
        style_layers=options.style_layers or defaults.style_layers,
    )
    for term, weight, layers in (
        ("content", wanted.content, wanted.content_layers),
        ("style", wanted.style, wanted.style_layers),
    ):
        if weight and not any(layers.values()):
            raise InvalidRequestError(
                f"Expected a {term} layer with a weight above 0, got only zeros. Set {term}_weight to 0 to do "
                f"without {term}.",
                fields=[f"options.{term}_layers"],
            )
    return wanted


def plan(options: StyleTransferOptions) -> Plan:
    """Take how to paint."""
    return Plan(
        steps=options.steps,
        optimizer=options.optimizer,
        learning_rate=options.learning_rate,
        init=options.init,
        preserve_colour=options.preserve_colour,
        seed=options.seed,
    )


def pictures(
    image: Image.Image, options: StyleTransferOptions, read: Callable[[ImageRef], Decoded], *, least: int
) -> Pictures:
    """Bring content and styles to their sizes.

    Args:
        image: The content.
        options: What was asked.
        read: Fetches and decodes a style.
        least: Fewest pixels each way from which the deepest layer has a feature.

    Raises:
        InvalidRequestError: A picture would become too large, or too thin for the layers wanted.
    """
    style_px = round(options.size_px * options.style_scale)
    if style_px > MAX_STYLE_SIDE_PX:
        raise InvalidRequestError(
            f"Expected styles of at most {MAX_STYLE_SIDE_PX} pixels, got size_px x style_scale = {style_px}. "
            "Choose a smaller style_scale.",
            fields=["options.style_scale"],
        )
    content = _fitted(image, options.size_px, least, "size_px")
    styles = [
        Style(_fitted(read(style.image).image, style_px, least, "style_scale"), style.weight)
        for style in options.styles
    ]
    return Pictures(content, styles)


def _fitted(image: Image.Image, longer_px: int, least: int, option: str) -> Tensor:
    width, height = fitted_size_wh(image.size, longer_px)
    if min(width, height) < least:
        raise InvalidRequestError(
            f"Expected pictures of at least {least} pixels each way once resized, got {width}x{height}. "
            f"Choose a larger {option}, shallower layers, or a picture that is less long and thin.",
            fields=[f"options.{option}"],
            size_wh=[width, height],
        )
    return to_tensor(resized(image, longer_px))
