"""The batch command: its options, its exit codes, its words."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from visionpipe.cli.batch import register, root_name
from visionpipe.cli.batch_view import print_report, progress_view
from visionpipe.errors import ImageNotFoundError, InvalidRequestError, LedgerError
from visionpipe.runs import RunProgress, RunReport, Stage
from visionpipe.runs.report import Accuracy, Failure
from visionpipe.runs.rows import Counts
from visionpipe.schemas.base import ID_PATTERN


@pytest.mark.parametrize(
    ("option", "error"),
    [("top=3", InvalidRequestError), ("top_k", InvalidRequestError), ("top_k=@x.png", ImageNotFoundError)],
)
def test_a_wrong_option_is_told_before_anything_is_started(tmp_path, monkeypatch, option, error):
    monkeypatch.setattr("visionpipe.cli.batch.ensure_stack", None)
    words = ["classification", str(tmp_path), "-o", str(tmp_path / "out"), "-m", "lenet-digits", "-O", option]
    app = typer.Typer()
    register(app)
    assert isinstance(CliRunner().invoke(app, words).exception, error)


def test_a_style_transfer_without_a_style_is_told_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("visionpipe.cli.batch.ensure_stack", None)
    words = ["style_transfer", str(tmp_path), "-o", str(tmp_path / "out"), "-m", "style-textures"]
    app = typer.Typer()
    register(app)
    assert "--style" in str(CliRunner().invoke(app, words).exception)


def test_an_output_folder_that_cannot_be_made_is_told_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr("visionpipe.cli.batch.ensure_stack", None)
    app = typer.Typer()
    register(app)
    told = CliRunner().invoke(app, ["classification", str(tmp_path), "-o", "/proc/none", "-m", "lenet-digits"])
    assert isinstance(told.exception, LedgerError)


@pytest.mark.parametrize(("right", "warned"), [(0, True), (1, False)])
def test_labels_that_fit_no_file_are_told(tmp_path, monkeypatch, right, warned):
    accuracy = [Accuracy(split="all", right=right, wrong=0, unanswered=0)] if right else []
    report = RunReport(
        run="r",
        folder="/in",
        task="classification",
        model="m",
        found=1,
        done=1,
        failed=0,
        skipped=0,
        worked_s=1,
        images_per_s=1,
        accuracy=accuracy,
    )
    monkeypatch.setattr("visionpipe.cli.batch._carry_out", lambda *_, **__: report)
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\n/elsewhere/a.png,cat\n")
    app = typer.Typer()
    register(app)
    words = ["classification", str(tmp_path), "-o", str(tmp_path / "out"), "-m", "m", "--labels", str(labels)]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0
    assert ("relative to the folder" in told.stderr) is warned


def test_a_folder_has_one_root_name_however_it_is_reached(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert root_name(tmp_path) == root_name(tmp_path / "link") != root_name(tmp_path.parent)
    assert re.fullmatch(ID_PATTERN, root_name(tmp_path))


def test_the_same_path_on_another_machine_has_another_root_name(tmp_path, monkeypatch):
    here = root_name(tmp_path)
    monkeypatch.setattr("platform.node", lambda: "another")
    assert root_name(tmp_path) != here


def test_without_a_terminal_progress_is_a_few_plain_lines():
    text = io.StringIO()
    with progress_view(Console(file=text, width=60)) as say:
        for done in range(100):
            say(RunProgress(Stage.WORK, Counts(pending=100 - done, done=done), rate=10.0))
        say(RunProgress(Stage.WRITE, Counts(done=100)))
    lines = text.getvalue().splitlines()
    assert lines[0] == "Running: 0/100, 10 images/s, 00:10 to go, 0 failed"
    assert lines[1:] == ["Writing: 100/100, 0 failed"]


def test_on_a_terminal_progress_has_bar_rate_time_and_failures():
    text = io.StringIO()
    with progress_view(Console(file=text, width=120, force_terminal=True)) as say:
        say(RunProgress(Stage.WRITE, Counts(pending=30, done=60, failed=10), rate=2.0, note="Redis cannot be reached."))
    for part in ("70/100", "2 images/s", "00:15", "10 failed", "Redis cannot be reached.", "━"):
        assert part in text.getvalue()


def test_the_summary_adds_up_and_shows_failures_as_text():
    report = RunReport(
        run="r",
        folder="/in",
        task="classification",
        model="m@000000000000",
        found=12,
        done=9,
        failed=2,
        skipped=1,
        failures=[Failure(code="poison", count=2, example_path="[red]a.png", example_message="it kills")],
        skips={"other_type": 1},
        worked_s=3,
        images_per_s=4,
        accuracy=[Accuracy(split="all", right=8, wrong=1, unanswered=2)],
    )
    text = io.StringIO()
    print_report(Console(file=text, width=100), report)
    for part in ("12 = 9 done + 2 failed + 1 skipped", "88.89 %", "poison", "[red]a.png", "it kills", "other type 1"):
        assert part in text.getvalue()


def test_a_redis_that_was_named_is_used_with_the_workers_behind_it_alone(tmp_path, redis_url, monkeypatch):
    asked = []

    @contextlib.contextmanager
    def stack(models, **_):
        asked.append(list(models))
        raise InvalidRequestError("seen enough")
        yield

    monkeypatch.setattr("visionpipe.cli.batch.ensure_stack", stack)
    app = typer.Typer()
    register(app)
    words = ["classification", str(tmp_path), "-o", str(tmp_path / "out"), "-m", "lenet-digits"]
    CliRunner().invoke(app, [*words, "--redis-url", redis_url])
    CliRunner().invoke(app, words, env={"VISIONPIPE_REDIS_URL": None})
    assert asked == [[], ["lenet-digits"]]
