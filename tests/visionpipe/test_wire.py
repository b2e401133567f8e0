"""Errors cross the wire as data."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from visionpipe import errors
from visionpipe.schemas.jobs import ErrorInfo
from visionpipe.wire import error_from, error_info

ALL = list(errors._tree(errors.VisionPipeError))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_error_comes_back_as_itself_through_json(cls):
    sent = error_info(cls("expected a, came b, do c", limit=3, names=["x"]))
    back = error_from(ErrorInfo.model_validate_json(sent.model_dump_json()))
    assert type(back) is cls
    assert str(back) == "expected a, came b, do c"
    assert back.details == {"limit": 3, "names": ["x"]}
    assert back.retryable is sent.retryable


def test_codes_are_unique():
    codes = [cls.code for cls in ALL]
    assert len(codes) == len(set(codes))


def test_an_unknown_exception_becomes_internal_error_and_its_traceback_stays_in_the_log(caplog):
    with caplog.at_level(logging.ERROR, logger="visionpipe"):
        try:
            raise KeyError("the secret")
        except KeyError as error:
            info = error_info(error)
    assert info.code == "internal_error"
    assert "the secret" not in info.model_dump_json()
    assert info.details["reference"] in info.message
    assert info.details["reference"] in caplog.text
    assert "the secret" in caplog.text


def test_details_that_json_cannot_hold_are_written_as_text():
    info = error_info(errors.InvalidImageError("bad", path=Path("/a/b"), thing=object))
    assert json.loads(info.model_dump_json())["details"]["path"] == "/a/b"


def test_details_named_like_arguments_survive():
    back = error_from(ErrorInfo(code="queue_full", message="full", details={"message": "m", "self": 1}))
    assert isinstance(back, errors.QueueFullError)
    assert back.details == {"message": "m", "self": 1}


def test_a_code_from_a_newer_version_keeps_its_name():
    back = error_from(ErrorInfo(code="quantum_flux", message="?"))
    assert type(back) is errors.VisionPipeError
    assert back.details["code"] == "quantum_flux"
