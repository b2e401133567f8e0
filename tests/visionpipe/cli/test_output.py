"""What all commands print alike."""

from __future__ import annotations

import pytest

from visionpipe.cli.output import duration, size, table_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0 s"), (9.94, "9.9 s"), (61, "61 s"), (150, "2 min 30 s"), (7259.6, "2 h 01 min")],
)
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (3e12, "3.0 TB")])
def test_sizes_are_short(num_bytes, text):
    assert size(num_bytes) == text


def test_tables_leave_out_empty_columns_and_put_numbers_on_the_right():
    made = table_of([{"class": "a", "score": "0.5", "r2": ""}, {"class": "b", "score": "12%", "r2": ""}])
    assert [(column.header, column.justify) for column in made.columns] == [("class", "left"), ("score", "right")]
