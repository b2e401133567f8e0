"""From a claim to the request, and pixels that come with it."""

from __future__ import annotations

from typing import Any

import pytest

from visionpipe.errors import InvalidRequestError, UnsupportedTaskError
from visionpipe.queue import Claim
from visionpipe.schemas.jobs import Lane
from visionpipe.tasks import build_request
from workers.claims import request_of


def claim(*, finished: frozenset[int] = frozenset()) -> Claim:
    request = build_request("classification", model="grey", images=[{"kind": "url", "url": "http://x"}] * 2)
    return Claim("j", "t", request.model_dump_json().encode(), Lane.BULK, 0, 0.0, None, finished)


def test_a_request_is_read_if_the_model_can_do_it() -> None:
    assert request_of(claim(finished=frozenset({1})), "grey", ["classification"]).num_items == 2
    with pytest.raises(UnsupportedTaskError, match=r"'grey' can do \(embedding\), got 'classification'"):
        request_of(claim(), "grey", ["embedding"])
    with pytest.raises(InvalidRequestError, match="got fewer"):
        request_of(claim(finished=frozenset({0, 1})), "grey", ["classification"])
    with pytest.raises(InvalidRequestError):
        request_of(claim()._replace(request=b"{"), "grey", ["classification"])


def test_pixels_that_came_with_the_claim_are_not_fetched(rig: Any) -> None:
    def fail(key: str) -> bytes:
        raise AssertionError(key)

    rig.engine._parts.fetcher._store.get = fail
    assert rig.answers(rig.submit([9])) == [9]
