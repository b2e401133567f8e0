"""Classes as requests name them: by index or by label."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from models.cards import Card
from visionpipe.errors import InvalidRequestError

LABELS_SHOWN = 20
"""How many labels an error message lists."""


def label_of(card: Card, class_id: int) -> str:
    """Name a class; its number where the card has no name for it."""
    return card.labels[class_id] if class_id < len(card.labels) else str(class_id)


def class_ids(card: Card, classes: Sequence[int | str]) -> list[int]:
    """Find classes by index or label, in the order given.

    Raises:
        InvalidRequestError: The model knows no such class; the message lists close or all labels.
    """
    return [_class_id(card, wanted) for wanted in classes]


def _class_id(card: Card, wanted: int | str) -> int:
    if isinstance(wanted, int):
        if card.labels and wanted >= len(card.labels):
            raise InvalidRequestError(
                f"Expected a class of {card.name!r} from 0 to {len(card.labels) - 1}, got {wanted}.", fields=["classes"]
            )
        return wanted
    if wanted in card.labels:
        return card.labels.index(wanted)
    close = difflib.get_close_matches(wanted, card.labels, n=LABELS_SHOWN // 4) or card.labels[:LABELS_SHOWN]
    raise InvalidRequestError(
        f"Expected a label of {card.name!r}, got {wanted!r}. Known are: {', '.join(close) or 'none, use indices'}"
        f"{', ...' if len(card.labels) > len(close) else ''}.",
        fields=["classes"],
    )
