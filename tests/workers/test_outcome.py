"""From an outcome to an item."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.errors import ImageTooLarge, UnsupportedImage
from visionpipe.errors import CancelledError, ImageChangedError
from visionpipe.queue import Claim
from visionpipe.schemas.images import ArtifactRef, InlineImage
from visionpipe.schemas.jobs import Lane
from visionpipe.schemas.requests import ClassificationRequest
from visionpipe.schemas.results import ClassificationResult, ClassScore
from visionpipe.tasks import parse_item
from workers.outcome import describe, item_json
from workers.runtime import Written
from workers.work import HeldJob, Work


class NoStore:
    def put(self, data: bytes, media_type: str, **_: object) -> ArtifactRef:
        raise AssertionError("nothing is stored here")

    try_put = put


@pytest.fixture
def work() -> Work:
    request = ClassificationRequest(model="m", images=[InlineImage(data=b"x", name="cat.jpg")])
    claim = Claim("j", "t", b"", Lane.BULK, 0, 12.0, None, frozenset())
    made = Work(HeldJob(claim, request, 1), 0, request.images[0], lambda _: pytest.fail("read"), NoStore())
    made.times_ms = {"fetch_ms": 1.23456, "decode_ms": -0.1}
    return made


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ImageTooLarge("big", limit=3), "image_too_large"),
        (UnsupportedImage("odd"), "unsupported_image"),
        (ImageChangedError("other"), "image_changed"),
        (CancelledError("stop"), "cancelled"),
        (KeyError("bug"), "internal_error"),
        (MemoryError(), "out_of_memory"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_exception_has_a_code(error: Exception, code: str) -> None:
    assert describe(error).code == code


def test_details_cross_and_tracebacks_do_not() -> None:
    assert describe(ImageTooLarge("big", limit=3)).details == {"limit": 3}
    told = describe(ValueError("secret path /etc/x"))
    assert "secret" not in told.message
    assert told.details["reference"] in told.message


def test_an_item_is_what_clients_can_read(work: Work) -> None:
    result = ClassificationResult(image_size_wh=(3, 4), classes=[ClassScore(class_id=1, label="cat", score=0.5)])
    index, ok, text = item_json(work, result)
    item: Any = parse_item("classification", text)
    assert (index, ok, item.name, item.result) == (0, True, "cat.jpg", result)
    assert (item.timings.queue_ms, item.timings.fetch_ms, item.timings.decode_ms) == (12.0, 1.235, 0.0)


def test_a_result_that_was_written_at_once_is_the_same_item(work: Work) -> None:
    result = ClassificationResult(image_size_wh=(3, 4), classes=[ClassScore(class_id=1, label="cat", score=0.5)])
    text = result.model_dump_json(exclude_none=True)
    assert _read(item_json(work, Written(text))) == _read(item_json(work, result))


def _read(item: tuple[int, bool, bytes]) -> tuple[int, bool, Any]:
    return item[0], item[1], parse_item("classification", item[2])


def test_an_error_is_an_item_too(work: Work) -> None:
    index, ok, text = item_json(work, ImageTooLarge("big"))
    told = json.loads(text)
    assert (index, ok, told["error"]["code"], "result" in told) == (0, False, "image_too_large", False)


def test_a_result_that_cannot_be_written_becomes_an_error(work: Work) -> None:
    broken = ClassificationResult.model_construct(image_size_wh=(3, 4), classes=[object()])
    _, ok, text = item_json(work, broken)
    assert not ok
    assert json.loads(text)["error"]["code"] == "internal_error"
