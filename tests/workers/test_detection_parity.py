"""When detections in reduced precision count as those of fp32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.detectors import Found
from workers.detection_parity import agree

PICTURE = np.zeros((8, 8, 3), np.uint8)
BOX = (10.0, 10.0, 50.0, 50.0)
EXACT = [(BOX, 0.9, 1)]


class Told:
    """A detector that finds what it was told to."""

    def __init__(self, rows: list[Any] | Exception, *, is_finite: bool = True) -> None:
        self.rows, self.is_finite = rows, is_finite

    def prepare(self, picture: Any) -> Any:
        return picture

    def detect(self, batch: Any, wanted: Any) -> list[Found]:
        if isinstance(self.rows, Exception):
            raise self.rows
        boxes = torch.tensor([row[0] for row in self.rows]).reshape(-1, 4)
        scores, classes = (torch.tensor([row[column] for row in self.rows]) for column in (1, 2))
        return [Found(boxes, scores, classes.long(), is_finite=self.is_finite)]


CASES = {
    "the same": (EXACT, EXACT, True),
    "a box and a score that moved a little": (EXACT, [((11.0, 10.0, 50.0, 51.0), 0.88, 1)], True),
    "a box that moved": (EXACT, [((20.0, 10.0, 60.0, 50.0), 0.9, 1)], False),
    "a score that moved": (EXACT, [(BOX, 0.8, 1)], False),
    "another class": (EXACT, [(BOX, 0.9, 2)], False),
    "nothing where there was something": (EXACT, [], False),
    "something where there was nothing": ([], EXACT, False),
    "one more": (EXACT, [*EXACT, ((60.0, 60.0, 80.0, 80.0), 0.5, 0)], False),
    "one more that is too weak to be told": (EXACT, [*EXACT, ((60.0, 60.0, 80.0, 80.0), 0.22, 0)], True),
    "nothing in either, which shows nothing": ([], [], False),
    "an operator that is missing": (EXACT, RuntimeError("not implemented for 'BFloat16'"), False),
}


@pytest.mark.parametrize(("exact", "quick", "expected"), CASES.values(), ids=CASES)
def test_detections_are_compared_by_their_twins(exact: Any, quick: Any, expected: bool) -> None:
    assert agree(Told(exact), Told(quick), [PICTURE]) is expected  # type: ignore[arg-type]


def test_one_picture_with_something_in_it_is_enough_to_judge_by() -> None:
    class Alternating(Told):
        def detect(self, batch: Any, wanted: Any) -> list[Found]:
            self.rows = [] if self.rows else EXACT
            return super().detect(batch, wanted)

    assert agree(Alternating([]), Alternating([]), [PICTURE, PICTURE])  # type: ignore[arg-type]


def test_what_is_no_number_agrees_with_nothing() -> None:
    assert not agree(Told(EXACT), Told(EXACT, is_finite=False), [PICTURE])  # type: ignore[arg-type]
