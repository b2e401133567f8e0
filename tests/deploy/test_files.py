"""What deploy/ says agrees with the code, the lock files and itself."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from visionpipe.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
LOCKS = ("requirements.lock", "requirements-worker.lock", "requirements-client.lock")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def workers(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose["services"].items() if service["command"][0] == "worker"}


def locked(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package → version and hashes."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for block in re.split(r"(?m)^(?=\S)", (DEPLOY / name).read_text()):
        if match := re.match(r"([\w.-]+)==([^\s;]+)", block):
            found[match[1]] = (match[2], frozenset(re.findall(r"sha256:[0-9a-f]{64}", block)))
    return found


def test_env_example_lists_every_setting_with_its_default():
    written = subprocess.check_output([sys.executable, DEPLOY / "env_example.py"], text=True, timeout=60)
    assert (DEPLOY / "env.example").read_text() == written, "run: python deploy/env_example.py > deploy/env.example"
    names = re.findall(r"^#VISIONPIPE_(\w+)=", written, re.MULTILINE)
    assert [name.lower() for name in names] == list(Settings.model_fields)


def test_env_example_is_accepted_as_it_stands(monkeypatch: pytest.MonkeyPatch):
    for line in (DEPLOY / "env.example").read_text().splitlines():
        if line.startswith("#VISIONPIPE_"):
            name, _, value = line.removeprefix("#").partition("=")
            monkeypatch.setenv(name, value)
    assert load_settings() == Settings.model_construct(
        **{name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()}
    )


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_pin_every_package_with_hashes_and_name_no_host(name: str):
    packages = locked(name)
    assert packages
    assert all(hashes for _, hashes in packages.values())
    assert not re.search(r"://|--(extra-)?index-url|--find-links| @ ", (DEPLOY / name).read_text())


@pytest.mark.parametrize("name", LOCKS[1:])
def test_the_images_get_the_versions_that_were_tested(name: str):
    everything = locked("requirements.lock")
    assert {package: everything.get(package) for package in locked(name)} == locked(name)


def test_the_images_hold_no_tools_of_developers():
    for name in LOCKS[1:]:
        assert not locked(name).keys() & {"pytest", "mypy", "ruff", "hypothesis", "hatchling", "uv", "ultralytics"}
    assert "torch" not in locked("requirements-client.lock")


def test_every_dependency_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.split(r"[\[<>=!~ ]", line)[0].lower() for line in wanted} - {"visionpipe"}
    assert names - locked("requirements.lock").keys() == set()


def test_the_dockerfile_builds_with_the_locked_tools_from_files_that_exist():
    text = (DEPLOY / "Dockerfile").read_text()
    everything = locked("requirements.lock")
    for tool, version in re.findall(r"(\w+)==([\d.]+)", text):
        assert everything[tool][0] == version
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}\n" in allowed


def test_no_image_runs_as_root():
    stages = re.split(r"(?m)^FROM ", (DEPLOY / "Dockerfile").read_text())
    for target in ("client", "worker"):
        (stage,) = (stage for stage in stages if f" AS {target}\n" in stage)
        assert re.search(r"^USER 10001$", stage, re.MULTILINE)


def test_there_is_a_worker_service_for_each_bundled_model(workers: dict[str, dict[str, Any]]):
    bundled = {path.parent.name for path in (ROOT / "models" / "bundled").glob("*/card.toml")}
    # The image holds the wheel, which leaves the AGPL-3.0 model out.
    assert {service["command"][1] for service in workers.values()} == bundled - {"yolo-digits"}


def test_workers_may_drain_before_they_are_killed(compose: dict[str, Any], workers: dict[str, dict[str, Any]]):
    for service in workers.values():
        assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_s
        assert service["healthcheck"]["test"] == ["CMD", "visionpipe", "status", "--ready", service["command"][1]]


def test_services_refer_to_files_and_targets_that_exist(compose: dict[str, Any]):
    stages = re.findall(r" AS (\S+)", (DEPLOY / "Dockerfile").read_text())
    for name, service in compose["services"].items():
        if build := service.get("build"):
            assert (DEPLOY / build["context"] / build["dockerfile"]).is_file(), name
            assert build["target"] in stages
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source.startswith("$") or (DEPLOY / source).is_dir()
    for path in compose["services"]["redis"]["command"][1:]:
        assert (DEPLOY / "redis" / Path(path).name).is_file()


def test_variables_of_compose_are_explained_in_its_example():
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert used == set(re.findall(r"^(\w+)=", (DEPLOY / "compose.env.example").read_text(), re.MULTILINE))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_accepts_the_unit(tmp_path: Path):
    text = (DEPLOY / "systemd" / "visionpipe-worker@.service").read_text()
    assert int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) > Settings().drain_s
    # The program is where the README says on a node, not here.
    unit = tmp_path / "visionpipe-worker@.service"
    unit.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", text))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
