"""The command line as a whole: finding commands, saying what went wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from visionpipe.cli import commands
from visionpipe.cli.app import app
from visionpipe.cli.commands import OURS, Commands, missing_extra
from visionpipe.cli.guard import check_names
from visionpipe.errors import MissingExtraError, NameClashError

VISIONPIPE = Path(sys.executable).with_name("visionpipe")


def visionpipe(
    *words: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run([VISIONPIPE, *words], capture_output=True, text=True, timeout=90, env=environment)


def python(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", source], capture_output=True, text=True, timeout=90)


@pytest.fixture
def clash(tmp_path: Path) -> Path:
    """A folder with somebody else's package called ``models``."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise SystemExit('the wrong models was imported')")
    return tmp_path


def test_help_lists_every_command_with_a_line():
    told = CliRunner().invoke(app, ["--help"])
    assert told.exit_code == 0
    for name, listed in OURS.items():
        assert f"  {name} " in told.output
        assert listed.help in told.output


def test_help_loads_no_command_and_is_quick():
    source = """
import sys, time
sys.argv = ["visionpipe", "--help"]
from visionpipe.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
print("loaded", [name for name in ("visionpipe.cli.run", "redis", "celery", "torch") if name in sys.modules])
print("seconds", time.process_time())
"""
    lines = python(source).stdout.splitlines()
    assert lines[-2] == "loaded []"
    # Without bytecode, as here perhaps, everything is compiled first.
    assert float(lines[-1].split()[1]) < 2


@pytest.mark.parametrize("name", [name for name, listed in OURS.items() if listed.module or name == "worker"])
def test_every_command_loads_and_has_help(name):
    told = CliRunner().invoke(app, [name, "--help"])
    assert told.exit_code == 0, told.output
    assert "--help" in told.output
    assert "--install-completion" not in told.output


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion():
    told = CliRunner().invoke(app, ["statsu"])
    assert told.exit_code == 2
    assert "'status'" in told.output


def test_version_is_that_of_the_package():
    from importlib.metadata import version

    assert CliRunner().invoke(app, ["--version"]).output == f"visionpipe {version('visionpipe')}\n"


def test_our_errors_are_one_message_on_stderr_and_status_1():
    done = visionpipe("schema", "detecton")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error invalid_request  There is no schema 'detecton'. Did you mean 'detection'?")
    assert "Traceback" not in done.stderr


def test_with_json_an_error_is_a_document_on_stdout():
    done = visionpipe("schema", "detecton", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "invalid_request"


def test_debug_shows_where_it_happened():
    done = visionpipe("--debug", "schema", "detecton")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "InvalidRequestError" in done.stderr


def test_an_unknown_exception_is_told_without_a_traceback():
    done = python(
        "import sys, visionpipe.cli.schema as schema; from visionpipe.cli import main\n"
        "schema._makers = lambda: {}['lost']; sys.argv = ['visionpipe', 'schema']; main()"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error internal_error  KeyError: 'lost'.")
    assert "visionpipe --debug" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_whose_packages_are_missing_says_which_extra_brings_them():
    done = python(
        "import sys; sys.modules['torch'] = None; from visionpipe.cli import main\n"
        "sys.argv = ['visionpipe', 'worker', 'lenet-digits', '--redis-url', 'redis://127.0.0.1:1']; main()"
    )
    assert done.returncode == 1
    assert "`visionpipe worker` needs torch" in done.stderr
    assert "pip install 'visionpipe[worker]'" in done.stderr


def test_a_broken_plugin_leaves_the_other_commands_working(monkeypatch):
    plugin = EntryPoint("foreign", "package_that_is_not_there:app", commands.PLUGINS)
    monkeypatch.setattr(commands, "entry_points", lambda group: [plugin])
    found = Commands()
    assert "foreign" in found
    assert "worker" not in found
    with pytest.raises(MissingExtraError, match="pip install package_that_is_not_there"):
        found["foreign"]
    assert found["schema"].name == "schema"


def test_a_missing_module_of_our_own_is_no_missing_extra():
    error = ModuleNotFoundError("No module named 'visionpipe.lost'", name="visionpipe.lost")
    assert missing_extra(error, "run") is error


def test_somebody_elses_models_package_stops_the_start(clash):
    done = visionpipe("schema", env={"PYTHONPATH": str(clash)})
    assert done.returncode == 1
    assert "Error name_clash" in done.stderr
    assert str(clash / "models") in done.stderr


def test_the_doctor_starts_in_spite_of_a_clash_and_tells_of_it(clash):
    done = visionpipe("doctor", "--json", env={"PYTHONPATH": str(clash)})
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["package names"]["state"] == "fail"


@pytest.mark.parametrize("command", [[str(VISIONPIPE)], [sys.executable, "-m", "visionpipe"]], ids=["script", "module"])
def test_the_working_directory_is_not_searched_for_modules(clash, command):
    (clash / "torchvision.py").write_text("raise SystemExit('the wrong torchvision was imported')")
    done = subprocess.run([*command, "schema", "card", "--json"], capture_output=True, text=True, timeout=90, cwd=clash)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["title"] == "Card"


def test_names_that_are_not_installed_at_all_are_no_clash():
    check_names(("package_that_is_not_there",))
    with pytest.raises(NameClashError):
        check_names(("json",))
