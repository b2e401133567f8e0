import sys

import pytest

from models.catalog import Catalog
from models.recipes import __main__ as command


def test_every_bundled_model_names_a_recipe_that_is_there():
    bundled = Catalog().entries("bundled")
    assert {entry.name for entry in bundled} == set(command.RECIPES)
    for entry in bundled:
        assert entry.card.provenance.command == f"python -m models.recipes {entry.name}"


def test_the_command_trains_into_the_folder_it_is_given(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "RECIPES", {"tiny": lambda folder, report: report(f"wrote {folder.name}")})
    monkeypatch.setattr(sys, "argv", ["recipes", "tiny", "--out", str(tmp_path)])
    command.main()
    assert capsys.readouterr().out == "wrote tiny\n"


def test_an_unknown_recipe_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipes", "huge"])
    with pytest.raises(SystemExit):
        command.main()
    assert "lenet-digits" in capsys.readouterr().err
