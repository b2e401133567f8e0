"""Latencies are looked up where they were kept, whoever measured them."""

from __future__ import annotations

import pytest
import torch

from models.accounting.device import device_name
from models.catalog import Catalog
from models.choosing.candidates import Candidate
from models.choosing.measuring import Circumstances, with_latencies
from models.choosing.verdicts import Budget
from models.measurements import Measurement, Measurements


@pytest.mark.parametrize(("by", "as_served"), [("bench", True), ("profile", False)])
def test_what_the_bench_kept_is_found_and_told_apart(tmp_path, by, as_served):
    entry = Catalog().find("lenet-digits")
    kept = Measurements(tmp_path)
    device = device_name(torch.device("cpu"))
    kept.add(Measurement(entry.target, (1, 32, 32), device, "fp32", 8, 1.5, 9, 0.0, by=by))
    one = Candidate(entry, 0.99, (32, 32), None, None)
    for batch, expected in ((8, 1.5), (4, None)):
        (found,) = with_latencies(
            [one], kept, Circumstances("cpu", "fp32", batch), budget=Budget(), measure=False, report=lambda *_: None
        )
        assert found.latency_ms == expected
        assert found.as_served is (as_served and batch == 8)


def test_a_file_of_before_the_bench_is_read(tmp_path):
    kept = Measurements(tmp_path)
    kept.add(Measurement("m@0", (3, 8, 8), "x", "fp32", 1, 2.0, 3, 0.0))
    kept.path.write_text(kept.path.read_text().replace(',\n  "by": "profile"', ""))
    assert "profile" not in kept.path.read_text()
    assert kept.all()[0].by == "profile"
