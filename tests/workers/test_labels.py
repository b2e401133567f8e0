"""Classes by index or label."""

from __future__ import annotations

import pytest

from models.catalog import Catalog
from visionpipe.errors import InvalidRequestError
from workers.labels import class_ids, label_of

CARD = Catalog(None).find("lenet-digits").card


def test_labels_and_indices_are_found_in_the_order_given() -> None:
    assert class_ids(CARD, ["7", 3, "0"]) == [7, 3, 0]
    assert label_of(CARD, 7) == "7"
    assert label_of(CARD, 12) == "12"


@pytest.mark.parametrize("wanted", ["seven", 10])
def test_an_unknown_class_is_refused_with_what_is_known(wanted: int | str) -> None:
    with pytest.raises(InvalidRequestError, match=r"lenet-digits.*9"):
        class_ids(CARD, [wanted])
