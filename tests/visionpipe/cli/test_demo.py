"""The main job, as a newcomer sees it: one command, true answers, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def processes_that_know_of(path: Path) -> list[str]:
    """Command lines of processes whose arguments or environment name a path."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                arguments, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(path) in arguments + environment:
                found.append(arguments.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


@pytest.mark.timeout(420)
def test_the_demo_answers_rightly_and_leaves_no_process_behind(tmp_path, becomes):
    done = subprocess.run(
        [sys.executable, "-m", "visionpipe", "demo", "--out", "shown"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The embedded Redis lingers for five seconds; how long the plain loop takes meanwhile is no matter.
    assert becomes(lambda: not processes_that_know_of(tmp_path), within_s=10), processes_that_know_of(tmp_path)
    report = json.loads((tmp_path / "shown" / "run" / "report.json").read_text())
    assert report["found"] == report["done"] + report["failed"] + report["skipped"] >= 1797 + 20
    accuracy = {split["split"]: split for split in report["accuracy"]}
    held_out = accuracy["held out"]
    assert held_out["right"] / (held_out["right"] + held_out["wrong"]) >= 0.985
    assert held_out["right"] + held_out["wrong"] == 360
    assert accuracy["all"]["unanswered"] == 0
    assert {failure["code"] for failure in report["failures"]} >= {
        "invalid_image",
        "unsupported_image",
        "image_too_large",
    }
    for said in ("plain loop", "ratio", "index.html", "held out"):
        assert said in done.stdout
    assert (tmp_path / "shown" / "run" / "index.html").stat().st_size > 100_000
