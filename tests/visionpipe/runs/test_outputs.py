"""What a run writes is complete, exact and written whole or not at all."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from pathlib import Path

import pytest

from visionpipe.errors import LedgerError
from visionpipe.runs.labels import Labels, Truth
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.outputs import replacing, write_outputs
from visionpipe.runs.rows import Outcome
from visionpipe.runs.scan import Found
from visionpipe.runs.spec import RunSpec
from visionpipe.schemas.jobs import ModelInfo
from visionpipe.tasks import TASKS

INFO = ModelInfo(name="m", digest="0" * 12, precision="fp32", device="cpu")
NASTY = b'a,b "c"\n</script><b>&amp; \xff.png'


def answered(label: str, score: float = 0.9, **timings: float) -> str:
    classes = [{"class_id": 1, "label": label, "score": score}, {"class_id": 2, "label": "other", "score": 1 - score}]
    result = {"task": "classification", "image_size_wh": [8, 9], "classes": classes}
    return json.dumps({"result": result, "timings": timings})


def write(out: Path, rows: dict[bytes, Outcome | str], *, task: str = "classification", labels: Labels | None = None):
    """Write the outputs of a run whose inputs ended so; a text is a reason to skip."""
    spec = RunSpec(out / "in", task, "m")
    with Ledger(out, spec) as ledger:
        ledger.note("pinned", f"m@{INFO.digest}")
        ledger.add(Found(path, 1, 1, skip=how if isinstance(how, str) else None) for path, how in sorted(rows.items()))
        chunk = ledger.cut(1000, 1 << 30)
        if chunk:
            ends = [rows[image.path]._replace(position=index) for index, image in enumerate(chunk.inputs)]
            ledger.settle(chunk, ends, model=INFO.model_dump_json(), worked_s=2.0)
        return write_outputs(ledger, spec, out, lambda _: None, labels)


def cards(out: Path) -> dict:
    page = (out / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_names_survive_csv_json_and_html_exactly(tmp_path):
    write(tmp_path, {NASTY: Outcome(0, answered("cat"))})
    line = json.loads((tmp_path / "results.jsonl").read_text(encoding="utf-8"))
    assert base64.b64decode(line["path_base64"]) == NASTY
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == line["path"] == 'a,b "c"\n</script><b>&amp; \\xff.png'
    assert base64.b64decode(row["path_base64"]) == NASTY
    assert cards(tmp_path)["cards"][0][:2] == [
        line["path"],
        "a%2Cb%20%22c%22%0A%3C/script%3E%3Cb%3E%26amp%3B%20%FF.png",
    ]


def test_the_table_follows_rfc_4180(tmp_path):
    write(tmp_path, {b"a.png": Outcome(0, answered("cat", 0.75)), b"b.txt": "other_type"})
    raw = (tmp_path / "results.csv").read_bytes()
    assert raw.count(b"\r\n") == 3
    header, done, skipped = csv.reader(io.StringIO(raw.decode(), newline=""))
    assert header[:7] == ["path", "path_base64", "state", "code", "message", "image_width", "image_height"]
    assert header[7:] == ["label_1", "score_1", "label_2", "score_2", "model"]
    assert done == ["a.png", "", "done", "", "", "8", "9", "cat", "0.75", "other", "0.25", "m@000000000000"]
    assert skipped[2:4] == ["skipped", "other_type"]


def test_every_line_has_the_same_fields(tmp_path):
    fault = Outcome(0, '{"error":{"code":"poison","message":"it kills"}}', "poison", "it kills")
    write(tmp_path, {b"a.png": Outcome(0, answered("cat")), b"b.png": fault, b"c.txt": "hidden"})
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    fields = ["path", "path_base64", "state", "reason", "artifacts", "overlay", "error", "model", "result", "timings"]
    assert all(list(line) == fields for line in lines)
    assert [line["state"] for line in lines] == ["done", "failed", "skipped"]
    assert lines[1]["error"] == {"code": "poison", "message": "it kills"}


def test_the_report_adds_up_and_splits_the_time(tmp_path):
    rows: dict[bytes, Outcome | str] = {
        b"%d.png" % index: Outcome(0, answered("cat", fetch_ms=1.0, decode_ms=index, forward_ms=64.0, batch=32))
        for index in range(10)
    }
    rows |= {b"x%d" % index: Outcome(0, "{}", "invalid_image", "bad") for index in range(3)}
    rows |= {b"y": Outcome(0, "{}", "poison", "worse"), b"z": "hidden"}
    report = write(tmp_path, rows)
    assert (report.found, report.done, report.failed, report.skipped) == (15, 10, 4, 1)
    assert [(failure.code, failure.count) for failure in report.failures] == [("invalid_image", 3), ("poison", 1)]
    assert report.stage_ms["forward"] == 2.0
    assert report.stage_ms["decode"] == 4.5
    assert [slow.path for slow in report.slowest] == ["9.png", "8.png", "7.png", "6.png", "5.png"]
    assert report.images_per_s == 7.0
    assert report.models == [INFO]


def test_answers_are_held_against_labels(tmp_path):
    rows = {b"%d.png" % index: Outcome(0, answered("cat")) for index in range(4)}
    rows[b"4.png"] = Outcome(0, "{}", "poison", "bad")
    truths = {
        "0.png": Truth("cat", "test"),
        "1.png": Truth("dog", "test"),
        "2.png": Truth("cat"),
        "4.png": Truth("cat"),
    }
    (every, test) = write(tmp_path, rows, labels=Labels(truths)).accuracy
    assert (every.split, every.right, every.wrong, every.unanswered) == ("all", 2, 1, 1)
    assert (test.split, test.right, test.wrong, test.unanswered) == ("test", 1, 1, 0)
    assert test.share == 0.5


def test_labels_are_read_from_csv_and_a_missing_column_is_named(tmp_path):
    (tmp_path / "good.csv").write_text("path,label,split\na.png,cat,test\n")
    assert Labels.read(tmp_path / "good.csv").truths == {"a.png": Truth("cat", "test")}
    # Spreadsheets begin their files with a byte order mark.
    (tmp_path / "marked.csv").write_text("path,label\na.png,cat\n", encoding="utf-8-sig")
    assert Labels.read(tmp_path / "marked.csv").truths == {"a.png": Truth("cat")}
    (tmp_path / "bad.csv").write_text("file,label\na.png,cat\n")
    with pytest.raises(Exception, match="path, label") as caught:
        Labels.read(tmp_path / "bad.csv")
    (tmp_path / "foreign.csv").write_text("path;label\n")
    with pytest.raises(Exception, match="no column label and no path; its header is 'path;label'"):
        Labels.read(tmp_path / "foreign.csv")
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("task", sorted(set(TASKS) - {"feature_visualization"}))
def test_every_task_has_its_columns(tmp_path, task):
    write(tmp_path, {b"a.txt": "other_type"}, task=task)
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["state"] == "skipped"
    if task != "classification":
        assert set(TASKS[task].result.model_fields) - {"task", "image_size_wh"} <= set(row)


def test_a_writer_that_dies_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")

    def die_half_way():
        with replacing(path) as file:
            file.write("half of the new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        die_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_told_with_its_folder(tmp_path):
    (tmp_path / "results.csv").mkdir()
    with pytest.raises(LedgerError, match=r"results\.csv"):
        write(tmp_path, {b"a.png": Outcome(0, answered("cat"))})
    assert not list(tmp_path.glob(".*.part"))


def test_the_gallery_is_bounded_and_says_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr("visionpipe.runs.gallery.MAX_CARDS", 3)
    rows: dict[bytes, Outcome | str] = {b"%d.png" % index: Outcome(0, answered("cat")) for index in range(5)}
    write(tmp_path, rows | {b"x.png": Outcome(0, "{}", "poison", "bad")})
    data = cards(tmp_path)
    assert [card[0] for card in data["cards"]] == ["0.png", "1.png", "2.png", "x.png"]
    assert data["leftOut"] == 2
    assert data["base"] == "in/"


def test_an_empty_folder_makes_a_page_all_the_same(tmp_path):
    report = write(tmp_path, {})
    assert (report.found, report.images_per_s) == (0, 0)
    assert cards(tmp_path)["cards"] == []
