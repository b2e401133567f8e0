"""Ask for an image's feature vector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.requests.base import Options, Request


class EmbeddingOptions(Options):
    """Which features, and how to return them."""

    layer: str | None = Field(default=None, min_length=1, max_length=256)
    """Module whose output is taken, by its dotted name, or ``NAME:input`` for what enters it; unset means the input of
    the classifier head, unless the model's card names another."""
    pooling: Literal["avg", "max", "flatten"] = "avg"
    """How a feature map, or a sequence of tokens, becomes one vector."""
    normalize: bool = False
    """Whether the vector is divided by its L2 norm."""
    as_artifact: bool = False
    """Whether the vector is stored as a ``.npy`` artifact instead of standing in the result."""


class EmbeddingRequest(Request):
    """Ask for pooled features."""

    task: Literal["embedding"] = "embedding"
    """Selects this request."""
    options: EmbeddingOptions = Field(default_factory=EmbeddingOptions)
    """Which features, and how to return them."""
