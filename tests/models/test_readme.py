import re
import subprocess
import sys
from pathlib import Path

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


def test_the_figures_are_those_of_the_cards():
    row = next(line for line in README.read_text().splitlines() if line.startswith("| `lenet-digits`"))
    card = Catalog().find("lenet-digits").card
    assert f"{card.quality[0].value:.2%}".replace("%", " %") in row
    assert f"{card.cost.num_params:,} parameters" in row
    assert card.provenance.command in row


def test_every_module_is_in_the_table():
    text = README.read_text()
    modules = {path.name for path in README.parent.glob("*.py")} - {"__init__.py", "errors.py"}
    assert {name for name in modules if f"`{name}`" not in text} == set()
