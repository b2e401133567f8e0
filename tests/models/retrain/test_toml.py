import tomllib

import pytest

from models.retrain import toml

DOCUMENT = {
    "text": 'a "quoted" \\ line\nand\ttab \x7f é 😀',
    "number": 3,
    "fraction": 0.1,
    "small": 1e-05,
    "flag": True,
    "off": False,
    "list": [1, 2],
    "nested": [[1], ["a"]],
    "empty": [],
    "odd key!": 1,
    "table": {"a": 1, "inner": {"b": "c"}, "many": [{"x": 1}, {"x": 2, "deep": {"y": 0}}]},
    "mixed": [{"in": "line"}, 3],
    "nothing": {},
}


def test_what_is_written_reads_back_the_same():
    assert tomllib.loads(toml.dumps(DOCUMENT)) == DOCUMENT


def test_what_is_absent_is_left_out():
    assert toml.dumps({"a": None, "b": 1, "t": {"c": None}}) == "b = 1\n\n[t]\n"


def test_what_has_no_form_is_refused():
    with pytest.raises(TypeError, match="bytes"):
        toml.dumps({"a": b"x"})
