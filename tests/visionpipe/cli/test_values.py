"""Options as words on a command line."""

from __future__ import annotations

import pytest

from visionpipe.cli.values import PLACEHOLDER, parse_options
from visionpipe.errors import InvalidRequestError


def test_values_are_json_where_they_can_be_and_text_elsewhere():
    words = ["top_k=3", "rle=true", 'classes=[1, "cat"]', "method=lime", "label=a=b", "nothing="]
    assert parse_options(words) == {
        "top_k": 3,
        "rle": True,
        "classes": [1, "cat"],
        "method": "lime",
        "label": "a=b",
        "nothing": "",
    }


def test_dots_reach_into_nested_options():
    words = ["slicing.overlap=0.3", "slicing.size_wh=[320, 320]"]
    assert parse_options(words) == {"slicing": {"overlap": 0.3, "size_wh": [320, 320]}}


def test_an_at_sign_stands_for_an_image():
    assert parse_options(["baseline_image=@grey.png"], lambda path: {"path": path}) == {
        "baseline_image": {"path": "grey.png"}
    }
    assert parse_options(["baseline_image=@grey.png"]) == {"baseline_image": PLACEHOLDER}


@pytest.mark.parametrize("words", [["top_k"], ["=3"], ["a..b=1"], [".a=1"], ["a=1", "a=2"], ["a=1", "a.b=2"]])
def test_what_is_no_option_is_refused(words):
    with pytest.raises(InvalidRequestError, match="-O"):
        parse_options(words)
