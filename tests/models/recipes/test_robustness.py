"""The recipe that prints accuracy against epsilon: its counting, its files, its words."""

from __future__ import annotations

import csv
import sys

import pytest

from models.attacks import Plan
from models.recipes import digits, robustness


@pytest.fixture(scope="module")
def curve():
    plan = Plan((8 / 255, 96 / 255), steps=5)
    return robustness.measure(plan, digits.test_split()[:12].tolist())


def test_accuracy_falls_from_what_the_network_knows_to_almost_nothing(curve):
    assert curve.clean == 1
    assert curve.clean >= curve.accuracy[0] > 0.5 > 0.2 > curve.accuracy[1]
    assert curve.rises == []


def test_a_digit_that_is_named_wrongly_is_wrong_at_every_epsilon(monkeypatch):
    chosen, wrong = digits.test_split()[:3].tolist(), (digits.targets() + 1) % 10
    monkeypatch.setattr(digits, "targets", lambda: wrong)
    curve = robustness.measure(Plan((8 / 255, 96 / 255), steps=1), chosen)
    assert (curve.clean, curve.accuracy) == (0, [0, 0])


def test_a_rise_is_named():
    curve = robustness.Curve(Plan((0.1, 0.2, 0.3)), 1.0, [0.5, 0.75, 0.7], 1.0)
    assert curve.rises == ["0.1: 50.00% to 75.00%"]


def test_the_command_writes_table_and_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["robustness", "--limit", "4", "--steps", "2", "--out", str(tmp_path)])
    robustness.main()
    with (tmp_path / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"pgd", "fgsm"}
    assert [float(row["epsilon"]) for row in rows[:7]] == [0, *robustness.EPSILONS["linf"]]
    assert (tmp_path / "robustness.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "4 held-out digits" in said
    assert "64/255" in said
