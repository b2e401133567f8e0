import json

import pytest
from typer.testing import CliRunner

from models.cli import app
from models.networks import NETWORKS


@pytest.fixture
def run(write_model, tmp_path, monkeypatch):
    monkeypatch.setenv("VISIONPIPE_MODELS", str(write_model("mine", state=NETWORKS["lenet5"]().state_dict())))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_list_shows_the_models_of_all_three_places(run):
    done = run("list")
    assert done.exit_code == 0
    for name in ("mine", "lenet-digits", "resnet50", "vit_b_16"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "user"], ["mine"]),
        (["--source", "bundled", "--task", "classification"], ["lenet-digits", "vgg-digits"]),
        (["resnet18"], ["resnet18"]),
        (["--source", "user", "--task", "detection"], []),
        (["--source", "user", "--task", "classification"], ["mine"]),
    ],
)
def test_list_filters_and_speaks_json(run, arguments, expected):
    facts = json.loads(run("list", "--json", *arguments).stdout)
    assert [fact["name"] for fact in facts] == expected


def test_the_facts_of_a_model_are_machine_readable(run):
    (fact,) = json.loads(run("list", "--json", "lenet-digits", "--source", "bundled").stdout)
    assert fact["input_size_hw"] == [32, 32]
    assert fact["weights_present"] is True
    assert fact["quality"][0]["value"] >= 0.985


def test_a_broken_card_is_told_beside_the_list(run, tmp_path):
    (tmp_path / "models" / "mine" / "card.toml").write_text("name = 3")
    done = run("list", "--source", "user")
    assert done.exit_code == 0
    assert "Left out" in done.stderr
    assert "card.toml" in done.stderr


def test_show_prints_the_card_and_its_digest(run):
    done = run("show", "lenet-digits")
    fact = json.loads(run("show", "lenet-digits", "--json").stdout)
    assert f"lenet-digits@{fact['digest']}" in done.stdout
    assert fact["card"]["network"] == "lenet5"
    assert "held-out" in done.stdout


def test_an_unknown_model_is_one_clear_message(run):
    done = run("show", "resnet19")
    assert done.exit_code == 1
    assert done.stderr.startswith("unknown_model: No model is called 'resnet19' in ")
    assert "Close names: resnet18" in done.stderr
    assert "Traceback" not in done.stderr


def test_pull_checks_what_is_here(run):
    done = run("pull", "mine", "lenet-digits")
    assert done.exit_code == 0
    assert done.stderr.count("weights.safetensors") == 2


def test_pull_names_the_file_that_would_do(run, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", _no_network)
    done = run("pull", "mine", "resnet18")
    assert done.exit_code == 1
    folder = tmp_path / "torch-home" / "hub" / "checkpoints"
    assert "model_load_failed: The weights of 'resnet18' are not here" in done.stderr
    assert f"'resnet18-f37072fd.pth' (its sha256 begins with f37072fd) into the folder {folder}" in done.stderr


def _no_network(url, timeout):
    raise OSError("no network in this test")


def test_a_piped_list_keeps_every_name_in_one_piece(run, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    assert "efficientnet_b1.imagenet1k_v1 " in run("list", "efficientnet").stdout


def test_a_models_folder_that_is_not_there_is_told(run, tmp_path):
    done = run("list", "resnet18", "--models-folder", str(tmp_path / "nowhere"))
    assert done.exit_code == 0
    assert "nowhere is no folder" in done.stderr
