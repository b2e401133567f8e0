import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from models.cli import app

CARD = """\
name = "{name}"
tasks = ["classification"]
network = "lenet5"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence = "CC0-1.0"
[arguments]
{arguments}
[preprocess]
mode = "L"
crop = 32
mean = [0.5]
std = [0.5]
[cost]
num_params = {params}
gflops = {gflops}
[provenance]
origin = "a test"
[[quality]]
metric = "my accuracy"
value = {value}
split = "my pictures"
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name, params, gflops, value in (("big", 61706, 0.0004, 0.9), ("little", 30000, 0.0002, 0.8)):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        card = CARD.format(name=name, params=params, gflops=gflops, value=value, arguments="")
        (folder / "card.toml").write_text(card)
    monkeypatch.setenv("VISIONPIPE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("VISIONPIPE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))
    return lambda *arguments: CliRunner().invoke(app, ["choose", "--task", "classification", *arguments])


def chosen(done):
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    return facts["chosen"], {one["name"]: one for one in facts["candidates"]}


def test_the_best_of_the_zoo_under_a_budget_is_chosen(run, tmp_path):
    done = run("--gflops", "4", "--plot", str(tmp_path / "front.png"))
    assert done.exit_code == 0
    assert "visionpipe worker efficientnet_b3" in done.stdout
    assert "0.51 points better, but 4.46 GFLOPs are over the budget of 4" in done.stdout
    assert "not compared, since they are measured otherwise" in " ".join(done.stderr.split())
    with Image.open(tmp_path / "front.png") as picture:
        assert len(picture.convert("L").getcolors()) > 20
    name, candidates = chosen(run("--gflops", "4", "--params", "6e6", "--min-accuracy", "77", "--json"))
    assert name == "efficientnet_b0"
    assert len(candidates) == 114


def test_own_models_are_compared_by_their_own_metric(run):
    assert chosen(run("--metric", "my accuracy", "--json"))[0] == "big"
    assert chosen(run("--metric", "my accuracy", "--gflops", "0.0003", "--json"))[0] == "little"


def test_a_latency_budget_asks_for_measurements_and_takes_them(run, tmp_path):
    mine = ("--metric", "my accuracy", "--latency-ms", "10000")
    done = run(*mine)
    assert done.exit_code == 1
    told = " ".join(done.stderr.split())
    assert "2 of 2 models were not timed here (batch 1, fp32)" in told
    assert "its latency was not measured here. Give --measure" in told
    name, candidates = chosen(run(*mine, "--params", "40000", "--measure", "--json"))
    assert name == "little"
    assert candidates["little"]["latency_ms"] > 0
    # The other one breaks a limit, so it was not timed.
    assert candidates["big"]["latency_ms"] is None
    assert len(json.loads((tmp_path / "data" / "latencies.json").read_text())) == 1
    assert chosen(run(*mine, "--json"))[0] == "little"


BREAKS = """
import torch

class Breaks(torch.nn.Module):
    def forward(self, x_NCHW):
        assert x_NCHW.device.type == "meta", "not on this machine"
        return x_NCHW.mean(dim=(2, 3))
"""


@pytest.mark.parametrize("network", [BREAKS, "raise OSError('not a network')"], ids=["runs badly", "loads badly"])
def test_a_model_that_cannot_be_timed_says_so_and_the_others_are_timed(run, tmp_path, network):
    folder = tmp_path / "models" / "asunder"
    folder.mkdir()
    card = CARD.format(name="asunder", params=10, gflops=0.0001, value=0.95, arguments="")
    (folder / "card.toml").write_text(card.replace('"lenet5"', '"net:Breaks"'))
    (folder / "net.py").write_text(network)
    name, candidates = chosen(run("--metric", "my accuracy", "--latency-ms", "10000", "--measure", "--json"))
    assert name == "big"
    assert candidates["little"]["latency_ms"] > 0
    assert candidates["asunder"]["latency_ms"] is None
    assert "it could not be timed" in candidates["asunder"]["reason"]


def test_another_resolution_is_counted_and_not_guessed(run):
    done = run("--metric", "my accuracy", "--resolution", "40", "--json")
    assert done.exit_code == 1
    assert "it does not take 40x40 pixels" in " ".join(done.stderr.split())
    done = run("--metric", "my accuracy", "--resolution", "32", "--json")
    assert chosen(done)[1]["big"]["gflops"] == 0.0004
    assert "published at each model's own resolution" in " ".join(done.stderr.split())


def test_where_nothing_fits_the_nearest_is_named_with_what_it_misses(run):
    done = run("--gflops", "0.03", "--min-accuracy", "0.6")
    assert done.exit_code == 1
    told = " ".join(done.stderr.split())
    assert "None of 114 models fits. The nearest is shufflenet_v2_x0_5 (60.55%): 0.04 GFLOPs are over" in told
    assert "misses by 33%" in told


def test_an_unknown_task_lists_the_known_ones(run):
    done = CliRunner().invoke(app, ["choose", "--task", "juggling"])
    assert done.exit_code == 2
    assert "classification" in done.output
