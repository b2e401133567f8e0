"""Ask what is in an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from visionpipe.schemas.base import Score
from visionpipe.schemas.requests.base import Options, Request


class ClassificationOptions(Options):
    """How to classify."""

    top_k: int = Field(default=5, ge=1, le=100_000)
    """How many classes to name; at most as many as the model knows."""
    score_threshold: Score = 0.0
    """Classes less probable than this are left out, except the most probable one."""


class ClassificationRequest(Request):
    """Ask for the most probable classes."""

    task: Literal["classification"] = "classification"
    """Selects this request."""
    options: ClassificationOptions = Field(default_factory=ClassificationOptions)
    """How to classify."""
