import csv
import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from models.cli import app


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONPIPE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setattr("models.accounting.device.PRODUCT_SIDES", (128,))
    monkeypatch.setattr("models.accounting.device.COPIED_BYTES", 1 << 20)
    return lambda *arguments: CliRunner().invoke(app, ["profile", *arguments])


def test_a_profile_is_a_table_with_totals(run):
    done = run("mobilenet_v3_small", "--input", "3x64x64")
    assert done.exit_code == 0
    for text in (
        "features.1.block.0.0",
        "2,542,856",
        "input 3x64x64",
        "Depthwise separable: ",
        "Left out of the table",
    ):
        assert text in done.stdout
    assert "BatchNorm2d" not in done.stdout.partition("Left out")[0]
    assert "BatchNorm2d" in run("mobilenet_v3_small", "--input", "3x64x64", "--all").stdout.partition("input 3x64")[0]


def test_json_csv_and_picture_hold_every_row(run, tmp_path):
    done = run("lenet-digits", "--json", "--csv", str(tmp_path / "rows.csv"), "--plot", str(tmp_path / "costs.png"))
    facts = json.loads(done.stdout)
    assert facts["totals"]["parameters"] == 61706
    assert sum(row["multiply_adds"] for row in facts["layers"]) == facts["totals"]["multiply_adds"]
    with (tmp_path / "rows.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == [row["name"] for row in facts["layers"]]
    assert (rows[0]["kernel"], rows[0]["output_shape"], rows[0]["weights"]) == ("5x5", "1x6x28x28", "150")
    with Image.open(tmp_path / "costs.png") as picture:
        assert len(picture.convert("L").getcolors()) > 20


def test_what_was_measured_is_shown_and_kept(run, tmp_path):
    done = run("lenet-digits", "--measure", "--runs", "3", "--batch", "2")
    assert done.exit_code == 0
    assert "slowest layers" in done.stdout
    assert "Roofline, measured here" in done.stdout
    (kept,) = json.loads((tmp_path / "data" / "latencies.json").read_text())
    assert kept["model"].startswith("lenet-digits@")
    assert (kept["batch"], kept["precision"], kept["input_shape"]) == (2, "fp32", [1, 32, 32])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lenet-digits", "--input", "32x32"], "expected channels, height and width such as 3x224x224, got '32x32'"),
        (["lenet-digits", "--input", "1x0x3"], "expected numbers above 0"),
        (["lenet-digits", "--plot", "costs.gif"], "expected a file that ends in .png, .svg, .pdf, got costs.gif"),
        (["lenet-digits", "--csv", "/nowhere/rows.csv"], "Expected files that can be written"),
        (["resnet19"], "Close names: resnet18"),
        (["lenet-digits", "--measure", "--device", "cuda:77"], "Expected a device of this machine"),
    ],
)
def test_what_is_wrong_is_told_in_one_message(run, arguments, message):
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
