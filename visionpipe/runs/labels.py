"""True labels, read from a CSV file, to hold answers against."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from visionpipe.errors import InvalidRequestError
from visionpipe.runs.report import Accuracy


class Truth(NamedTuple):
    """What one image really shows."""

    label: str
    """The class's name."""
    split: str = ""
    """Which part of the data it belongs to, such as ``test``."""


@dataclass(frozen=True)
class Labels:
    """Truths by relative path."""

    truths: dict[str, Truth]

    @classmethod
    def read(cls, path: Path) -> Labels:
        """Read a CSV file with a header and the columns ``path``, ``label`` and, if wanted, ``split``.

        Raises:
            InvalidRequestError: The file cannot be read, or a column is missing.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = csv.DictReader(file)
                header = rows.fieldnames or []
                truths = {row.get("path"): Truth(row.get("label") or "", row.get("split") or "") for row in rows}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise _unusable(path, str(error)) from error
        if missing := {"path", "label"} - set(header):
            raise _unusable(path, f"no column {' and no '.join(sorted(missing))}; its header is {','.join(header)!r}")
        return cls({name: truth for name, truth in truths.items() if name is not None})


def _unusable(path: Path, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Expected a CSV file with columns path, label and perhaps split at {str(path)!r}: {why}"
    )


@dataclass
class Comparison:
    """How the answers of one run compare with the labels; without labels, nothing does."""

    labels: Labels | None
    _tally: Counter[tuple[str, str]] = field(default_factory=Counter, init=False)

    def add(self, path: str, answer: str | None) -> Truth | None:
        """Count one input; ``answer`` is ``None`` when it has none."""
        truth = self.labels.truths.get(path) if self.labels else None
        if truth is None:
            return None
        outcome = "unanswered" if answer is None else "right" if answer == truth.label else "wrong"
        for split in {"all", truth.split or "all"}:
            self._tally[split, outcome] += 1
        return truth

    def accuracy(self) -> list[Accuracy]:
        """The tally, all labelled inputs first, then each split."""
        splits = sorted({split for split, _ in self._tally}, key=lambda split: (split != "all", split))
        return [
            Accuracy(
                split=split,
                right=self._tally[split, "right"],
                wrong=self._tally[split, "wrong"],
                unanswered=self._tally[split, "unanswered"],
            )
            for split in splits
        ]
