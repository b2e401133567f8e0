"""Which values of an input speak for a class: attribution methods as sequences of short device steps."""

from __future__ import annotations

from models.attribution.answers import Completeness, Explained
from models.attribution.attributor import Attributor
from models.attribution.methods import METHODS, attributor, explain
from models.attribution.question import Method, Question, Settings

__all__ = [
    "METHODS",
    "Attributor",
    "Completeness",
    "Explained",
    "Method",
    "Question",
    "Settings",
    "attributor",
    "explain",
]
