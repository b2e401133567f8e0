"""The command line, as it is typed."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from models.catalog import Catalog
from models.cli import app


@pytest.fixture
def run(models_folder, monkeypatch):
    monkeypatch.setenv("VISIONPIPE_MODELS", str(models_folder))
    monkeypatch.setenv("COLUMNS", "160")
    quick = ["--device", "cpu", "--views", "2", "--epochs", "30"]
    return lambda *words: CliRunner().invoke(app, ["retrain", "--base", "tiny", *map(str, words), *quick])


def test_it_says_what_was_made_how_good_it_is_and_how_to_serve_it(run, write_images, models_folder):
    folder = write_images()
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "red" / "[notes].txt").write_text("hello")
    done = run("--images", folder, "--name", "colours")
    assert done.exit_code == 0, done.output
    entry = Catalog(models_folder).find("colours")
    for part in (
        f"{entry.target} in {entry.folder}",
        "of 6 validation pictures right",
        "18 pictures trained on, 6 to validate",
        "validation right",
        f"Confusion matrix (validation): {entry.folder}/confusion.png",
        "Left out 2 files:",
        "red/[notes].txt: Expected one of JPEG",
        "Serve it: visionpipe worker colours",
    ):
        assert part in done.stdout, part
    assert re.search(r"^green +8 +\d of 2", done.stdout, flags=re.MULTILINE)
    for stage in ("reading images", "features of training", "features of validation", "training"):
        assert stage in done.stderr


def test_a_mode_and_test_pictures_can_be_chosen(run, write_images, models_folder):
    test = write_images("test", number=3, seed=60)
    done = run("--images", write_images(), "--name", "colours", "--mode", "svm", "--test-images", test)
    assert done.exit_code == 0, done.output
    assert "100.0% of 9 test pictures right" in done.stdout
    assert "Linear SVM" in done.stdout
    assert Catalog(models_folder).find("colours").card.quality[0].split.startswith("test: 9 pictures")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "tiny"], "model_exists: "),
        (["--name", "x", "--base", "tinny"], "unknown_model: No model is called 'tinny'"),
        (["--name", "x", "--validation-fraction", "0"], "retrain_failed: validation_fraction: expected above 0"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_status_1(run, write_images, words, says):
    done = run("--images", write_images(), *words)
    assert done.exit_code == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_models_folder_it_says_how_to_name_one(run, write_images, monkeypatch):
    monkeypatch.delenv("VISIONPIPE_MODELS")
    done = run("--images", write_images(), "--name", "x")
    assert done.exit_code == 1
    assert "Set VISIONPIPE_MODELS" in done.stderr


def test_a_folder_given_on_the_line_stands_in_the_last_line(run, write_images, tmp_path, monkeypatch):
    monkeypatch.delenv("VISIONPIPE_MODELS")
    target = tmp_path / "new" / "models"
    words = ["retrain", "--base", "lenet-digits", "--images", write_images(), "--name", "x", "--models-folder", target]
    done = CliRunner().invoke(app, [*map(str, words), "--mode", "svm", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert f"Serve it: VISIONPIPE_MODELS={target} visionpipe worker x" in done.stdout
    assert Catalog(target).find("x").card.network == "lenet5"


def test_the_commands_load_without_torch():
    code = "import sys, models.cli; print([name for name in ('torch', 'sklearn', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_extra_is_named(run, write_images, monkeypatch):
    monkeypatch.setitem(sys.modules, "models.retrain.run", None)
    monkeypatch.setattr("models.retrain.command.NEEDED", ("models",))
    done = run("--images", write_images(), "--name", "x")
    assert done.exit_code == 1
    assert "pip install 'visionpipe[retrain]'" in done.stderr
