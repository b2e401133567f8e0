import re
import subprocess
import sys
from pathlib import Path

import pytest

import models
from models.catalog import Catalog

README = Path(models.__file__).parent / "README.md"


def blocks():
    found = re.findall(r"```\w+ file=(\S+)\n(.*?)```", README.read_text(), flags=re.DOTALL)
    return dict(found)


def test_the_worked_example_works_as_it_is_written(tmp_path):
    folder = tmp_path / "warmth"
    folder.mkdir()
    assert set(blocks()) == {"network.py", "train.py", "card.toml", "use.py"}
    for name in ("network.py", "train.py", "card.toml"):
        (folder / name).write_text(blocks()[name])
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True, timeout=120)
    names = {"FOLDER": tmp_path}
    exec(blocks()["use.py"], names)
    assert names["answer"] == "warm"
    assert names["probabilities"][0] > 0.99


ROWS = {
    line.split("`")[1]: line for line in README.read_text().splitlines() if re.match(r"\| `[a-z]+-[a-z]+` \|", line)
}


def percent(value):
    return f"{value:.2%}".replace("%", " %")


FIGURES = {
    "lenet-digits": lambda quality: [percent(quality["accuracy"])],
    "unet-cells": lambda quality: [
        f"mean IoU {quality['mean_iou']:.3f}",
        f"counts off by {quality['instance_count_error']:.1%}".replace("%", " %"),
        f"{quality['coins_separated']:.0f} of 24 coins",
    ],
    "fasterrcnn-digits": lambda quality: [f"mAP50 {quality['mAP50']:.3f}", f"mAP50-95 {quality['mAP50-95']:.3f}"],
    "yolo-digits": lambda quality: [f"mAP50 {quality['mAP50']:.3f}", f"mAP50-95 {quality['mAP50-95']:.3f}"],
    "stn-digits": lambda quality: [
        percent(quality["accuracy"]),
        percent(quality["accuracy without the transformer"]),
    ],
    "vgg-digits": lambda quality: [percent(quality["accuracy"])],
    "style-textures": lambda quality: [f"by {min(quality.values()):.0%} to {max(quality.values()):.0%}"],
}


@pytest.mark.parametrize("name", sorted(entry.name for entry in Catalog().entries("bundled")))
def test_the_figures_are_those_of_the_cards(name):
    card = Catalog().find(name).card
    for figure in FIGURES[name]({one.metric: one.value for one in card.quality}):
        assert figure in ROWS[name]


def test_every_module_is_in_the_table():
    text = README.read_text()
    modules = {path.name for path in README.parent.glob("*.py")} - {"__init__.py", "errors.py"}
    assert {name for name in modules if f"`{name}`" not in text} == set()
