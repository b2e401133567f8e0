"""A suspect is marked in Redis before it is tried, and handed back where that cannot be done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from visionpipe.errors import QueueUnavailableError
from visionpipe.queue import Claim
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import Lane
from visionpipe.tasks import build_request
from workers.preparer import Preparer
from workers.work import HeldJob, Work


@pytest.fixture
def suspect() -> Work:
    ref = BlobImage(key="blob:j:0", size_bytes=1)
    request = build_request("classification", model="grey", images=[ref])
    claim = Claim("j", "token", b"", Lane.BULK, 1, 0.0, None, frozenset())
    nothing: Any = None
    return Work(HeldJob(claim, request, open_items=1), 0, None, read=nothing, store=nothing)


@pytest.mark.parametrize(
    ("marked", "lost", "handing_back"),
    [(True, False, False), (False, True, False), (None, False, True), (QueueUnavailableError("away"), False, True)],
    ids=["marked", "held by another", "refused", "Redis away"],
)
def test_a_suspect_is_tried_only_once_it_is_marked(
    suspect: Work, monkeypatch: pytest.MonkeyPatch, marked: Any, lost: bool, handing_back: bool
) -> None:
    tried: list[Work] = []
    left: list[tuple[list[Work], list[Any]]] = []
    patience: list[bool] = []

    def run_all(_redis: Any, calls: Any, *, patient: bool = True) -> list[Any]:
        assert len(calls) == 1
        patience.append(patient)
        if isinstance(marked, Exception):
            raise marked
        return [marked]

    monkeypatch.setattr("workers.preparer.run_all", run_all)
    runtime: Any = SimpleNamespace(prepare=tried.append)
    committer: Any = SimpleNamespace(put=lambda works, outcomes: left.append((works, outcomes)))
    nothing: Any = None
    preparer = Preparer(nothing, nothing, {"classification": runtime}, nothing, committer)
    is_marked = marked is True
    assert preparer.prepare_suspect(suspect) is is_marked
    assert patience == [False], "the device thread waits for nothing longer than it must"
    assert tried == ([suspect] if is_marked else [])
    assert left == ([] if is_marked else [([suspect], [None])])
    assert (suspect.job.lost, suspect.job.handing_back) == (lost, handing_back)
