"""Accuracy against epsilon: counted exactly, whole after any resume; and every success fools the service itself."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from visionpipe.runs import Labels, rewrite_outputs, run_folder
from visionpipe.runs.labels import Truth
from visionpipe.runs.ledger import discard
from visionpipe.runs.robustness import Robustness
from visionpipe.runs.rows import Outcome
from visionpipe.runs.summaries import SUMMARIZERS, summarizer
from visionpipe.tasks import TASKS

from .conftest import write_digits
from .test_outputs import write

MODEL = "lenet-digits"
ARTIFACT = {"key": f"artifact:{0:064x}", "media_type": "image/png", "size_bytes": 1}
PNG = b"\x89PNG\r\n\x1a\n"


def said(label: str) -> dict[str, Any]:
    return {"class_id": int(label), "label": label, "score": 0.9}


def attacked(before: str, *after: tuple[float, str], target: str | None = None) -> dict[str, Any]:
    attacks = [
        {
            "epsilon": epsilon,
            "success": label == target if target else label != before,
            "after": said(label),
            "true_score": 0.1,
            "picture": ARTIFACT,
            "difference": ARTIFACT,
            "norms": {"linf": epsilon, "l2": 10 * epsilon, "changed": 0.5},
            "steps": 40,
        }
        for epsilon, label in after
    ]
    result = {"task": "adversarial", "image_size_wh": [8, 8], "method": "pgd", "norm": "linf", "attacks": attacks}
    result |= {"before": said(before), "true_class": said(before), "picture_size_wh": [32, 32], "stopped": "finished"}
    return result | ({"target": said(target)} if target else {})


def table(out: Path) -> list[dict[str, str]]:
    with (out / "robustness.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def summed_up(out: Path, results: list[dict[str, Any]], truths: list[str] | None = None) -> tuple[Any, list[Any]]:
    made = summarizer("adversarial")
    for result, label in zip(results, truths or [None] * len(results), strict=True):
        made.add(result, Truth(label) if label else None)
    return made.write(out), table(out)


def test_every_summarizer_belongs_to_a_task_and_the_others_have_none():
    assert set(SUMMARIZERS) <= set(TASKS)
    assert summarizer("classification") is None


def test_an_image_is_right_while_the_network_names_it_rightly_before_and_after(tmp_path):
    low, high = 8 / 255, 16 / 255
    results = [
        attacked("1", (low, "1"), (high, "7")),
        attacked("2", (low, "2"), (high, "2")),
        # Named wrongly at first; that an attack led to the true class makes it no better.
        attacked("3", (low, "4"), (high, "4")),
        attacked("5", (low, "6"), (high, "6")),
    ]
    summary, rows = summed_up(tmp_path, results, ["1", "2", "4", "5"])
    assert [float(row["epsilon"]) for row in rows] == [0, low, high]
    assert [(row["labelled"], row["right"], float(row["accuracy"])) for row in rows] == [
        ("4", "3", 0.75),
        ("4", "2", 0.5),
        ("4", "1", 0.25),
    ]
    assert [row["changed"] for row in rows] == ["0", "2", "3"]
    assert float(rows[2]["mean_linf"]) == pytest.approx(high, rel=1e-4)
    assert summary.rows[1] == {
        "epsilon": "8/255",
        "images": "4",
        "accuracy": "50.00%",
        "right": "2 of 4",
        "changed": "50.00%",
    }
    assert (tmp_path / "robustness.png").read_bytes().startswith(PNG)
    assert [file.name for file in summary.files] == ["robustness.csv", "robustness.png"]


def test_without_labels_the_share_of_changed_answers_is_told(tmp_path):
    results = [attacked("1", (0.1, "7"), target="3"), attacked("2", (0.1, "3"), target="3")]
    summary, rows = summed_up(tmp_path, [*results, attacked("4", (0.1, "4"), target="3")])
    assert (rows[1]["accuracy"], rows[1]["labelled"]) == ("", "0")
    # Two answers changed, and one of them into the target.
    assert (rows[1]["changed"], rows[1]["fooled"]) == ("2", "1")
    assert summary.rows[1]["changed"] == "66.67%"
    assert "answer changed" in summary.title


def test_a_partial_result_counts_where_it_has_an_attack_and_is_told_to_be_missing_elsewhere(tmp_path):
    whole, part = attacked("1", (0.1, "1"), (0.2, "2")), attacked("1", (0.1, "3"))
    summary, rows = summed_up(tmp_path, [whole, part], ["1", "1"])
    told = [(row["images"], row["missing"], row["right"]) for row in rows]
    assert told == [("2", "0", "2"), ("2", "0", "1"), ("1", "1", "0")]
    (note,) = summary.notes
    assert "Of 2 images, not all were attacked at every epsilon" in note
    assert "early: 1 at 51/255. " in note


def test_where_no_image_is_missing_no_note_says_so(tmp_path):
    summary, rows = summed_up(tmp_path, [attacked("1", (0.1, "1"), (0.2, "2"))] * 2)
    assert (summary.notes, {row["missing"] for row in rows}) == ([], {"0"})


def test_without_matplotlib_there_is_the_table_and_a_line_that_says_why(tmp_path, monkeypatch):
    (tmp_path / "robustness.png").write_bytes(b"of an earlier sitting")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    summary, rows = summed_up(tmp_path, [attacked("1", (0.1, "1"))])
    assert len(rows) == 2
    assert [file.name for file in summary.files] == ["robustness.csv"]
    assert "matplotlib is not installed" in summary.notes[0]
    assert not (tmp_path / "robustness.png").exists()


def test_a_hundred_thousand_results_are_no_more_than_a_few_counters():
    made, result = Robustness(), attacked("1", (8 / 255, "1"), (16 / 255, "2"))
    for _ in range(100_000):
        made.add(result, None)
    assert len(made.levels) == 3
    assert made.levels[16 / 255].changed == 100_000


def test_report_page_and_clean_accuracy_name_the_curve(tmp_path):
    answers = {b"a.png": attacked("1", (0.1, "7")), b"b.png": attacked("2", (0.1, "2"))}
    rows = {path: Outcome(0, json.dumps({"result": result, "timings": {}})) for path, result in answers.items()}
    report = write(tmp_path, rows, task="adversarial", labels=Labels({"a.png": Truth("1"), "b.png": Truth("3")}))
    assert [row["accuracy"] for row in table(tmp_path)] == ["0.5", "0"]
    assert (report.accuracy[0].right, report.accuracy[0].wrong) == (1, 1)
    stored = json.loads((tmp_path / "report.json").read_text())
    assert [file["name"] for file in stored["summary"]["files"]] == ["robustness.csv", "robustness.png"]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (
        "robustness.png"
        in json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])["report"]["summary"]["files"][1][
            "name"
        ]
    )
    discard(tmp_path)
    assert not list(tmp_path.glob("robustness.*"))


def test_a_run_without_results_writes_no_curve(tmp_path):
    fault = Outcome(0, '{"error":{"code":"poison","message":"it kills"}}', "poison", "it kills")
    assert write(tmp_path, {b"a.png": fault}, task="adversarial").summary is None
    assert not list(tmp_path.glob("robustness.*"))


async def test_a_run_that_is_resumed_has_every_image_in_its_curve(client, digit_files, tmp_path):
    folder, out = write_digits(tmp_path / "in", digit_files, 12), tmp_path / "out"
    labels = Labels({path.name: Truth(path.stem[-1]) for path in folder.iterdir()})
    asked = {"task": "adversarial", "model": MODEL, "options": {"steps": 5, "epsilons": [8 / 255, 64 / 255]}}

    def interrupt(progress: Any) -> None:
        if progress.counts.done >= 4:
            task.cancel()

    run = run_folder(client, folder, out, settings=client.settings, chunk=2, on_progress=interrupt, **asked)
    task = asyncio.ensure_future(run)
    with pytest.raises(asyncio.CancelledError):
        await task
    report = await run_folder(client, folder, out, settings=client.settings, labels=labels, **asked)
    assert (report.done, report.failed) == (12, 0)
    rows = table(out)
    assert [row["images"] for row in rows] == ["12"] * 3
    accuracy = [float(row["accuracy"]) for row in rows]
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[0] > 0.9 > 0.5 > accuracy[2]
    before = (out / "robustness.csv").read_bytes()
    await asyncio.to_thread(rewrite_outputs, out, labels=labels)
    assert (out / "robustness.csv").read_bytes() == before


async def test_every_reported_success_still_fools_the_model_when_its_file_is_classified(
    client, service, digit_files, tmp_path
):
    paths, expected = [], []
    for index, (data, label) in enumerate(digit_files[:10]):
        options = {"epsilons": [16 / 255, 48 / 255], "norm": "linf"} if index % 2 else {"epsilons": [2.0], "norm": "l2"}
        result = await client.attack(data, model=MODEL, **options)
        assert result.before.label == label
        for attack in result.attacks:
            if attack.success:
                path = tmp_path / f"{len(paths):02}.png"
                path.write_bytes(await client.artifact(attack.picture))
                paths.append(str(path))
                expected.append((attack.after.label, label))
    assert len(paths) >= 6
    command = [sys.executable, "-m", "visionpipe", "run", "classification", *paths, "-m", MODEL, "--json"]
    environment = {**os.environ, "VISIONPIPE_REDIS_URL": service.redis_url or ""}
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, check=True)
    told = [item["result"]["classes"][0]["label"] for item in json.loads(done.stdout)["items"]]
    assert told == [after for after, _ in expected]
    assert all(after != label for after, label in expected)
