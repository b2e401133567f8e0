"""The schema command."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from visionpipe.cli import schema as module
from visionpipe.cli.app import app
from visionpipe.errors import MissingExtraError
from visionpipe.tasks import TASKS


def schema(*words: str):
    told = CliRunner().invoke(app, ["schema", *words, "--json"])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_schemas_of_its_request_and_result(task):
    document = schema(task)
    for part in ("request", "result"):
        assert document[part]["properties"]["task"]["const"] == task


def test_without_a_name_everything_is_printed_once():
    document = schema()
    assert set(document["request"]["discriminator"]["mapping"]) == set(TASKS)
    assert set(document["result"]["discriminator"]["mapping"]) == set(TASKS)
    assert {"image", "envelope", "job", "worker", "settings", "card", "error"} <= set(document)


def test_settings_say_their_environment_variable():
    lease = schema("settings")["properties"]["lease_s"]
    assert lease["description"].endswith("Environment: VISIONPIPE_LEASE_S.")


def test_every_name_that_is_listed_has_a_schema():
    for name in schema("--names"):
        assert schema(name)


def test_a_schema_that_cannot_be_loaded_is_left_out_with_a_word(monkeypatch):
    def unavailable(extra):
        raise MissingExtraError("needs torch")

    monkeypatch.setattr(module, "_of_extra", unavailable)
    told = CliRunner().invoke(app, ["schema", "--json"])
    assert "card" not in json.loads(told.stdout)
    assert "card is left out: needs torch" in told.stderr
