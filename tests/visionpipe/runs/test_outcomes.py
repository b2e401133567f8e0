"""What a run makes of the items of a chunk."""

from __future__ import annotations

import pytest

from tests.helpers.results import SAMPLES
from visionpipe.errors import InternalError
from visionpipe.queue import RawEnvelope
from visionpipe.runs.outcomes import raw_outcomes, was_cancelled
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.jobs import Item, JobRecord, JobState, Lane

GOOD = b'{"index":0,"result":{"task":"classification","classes":[{"class_id":1,"label":"a","score":0.5}]},"timings":{}}'


def envelope(*items: bytes, total: int = 1) -> RawEnvelope:
    record = JobRecord(
        job="j", task="classification", model="m", lane=Lane.BULK, state=JobState.DONE, total=total, finished=total,
        attempts=0, submitted_at=0.0,
    )  # fmt: skip
    return RawEnvelope(record, None, list(items))


def test_a_plain_result_is_passed_on_as_it_came():
    (outcome,) = raw_outcomes(envelope(GOOD))
    assert (outcome.position, outcome.code) == (0, None)
    assert outcome.answer == "{" + GOOD.decode().partition(",")[2]


def test_an_error_and_an_image_without_an_outcome_have_their_reasons():
    error = b'{"index":1,"error":{"code":"invalid_image","message":"bad"}}'
    told = {found.position: found.code for found in raw_outcomes(envelope(GOOD, error, total=3))}
    assert told == {0: None, 1: "invalid_image", 2: "internal_error"}


@pytest.mark.parametrize(
    "item", [b'{"index":0,"junk":1}', b'{"index":0}', b"nonsense", b"5", GOOD.replace(b"{}}", b'{},"new":1}')]
)
def test_what_is_no_item_of_this_version_is_never_taken_for_done(item: bytes):
    with pytest.raises(InternalError, match="this version cannot read"):
        list(raw_outcomes(envelope(item)))


CUT = GOOD.replace(b'"task"', b'"partial":true,"task"')


@pytest.mark.parametrize("state", [JobState.DONE, JobState.CANCELLED])
def test_what_an_interruption_cut_short_is_left_for_the_next_sitting(state: JobState):
    raw = envelope(CUT, GOOD.replace(b'"index":0', b'"index":1'), total=2)
    raw = raw._replace(record=raw.record.model_copy(update={"state": state}))
    assert [found.position for found in raw_outcomes(raw, interrupted=True)] == [1]
    assert {found.position for found in raw_outcomes(raw)} == {0, 1}


@pytest.mark.parametrize(("stopped", "expected"), [("time_budget", False), ("cancelled", True)])
def test_what_a_budget_of_time_cut_short_is_an_outcome(stopped: str, expected: bool):
    ref = ArtifactRef(key=f"artifact:{0:064}", media_type="image/png", size_bytes=1)
    result = SAMPLES["style_transfer"]((4, 4), lambda *_: ref).model_copy(update={"partial": True, "stopped": stopped})
    assert was_cancelled(Item(index=0, result=result)) is expected
