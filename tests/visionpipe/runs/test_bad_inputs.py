"""Every odd file gets the right answer, every bad one a typed error, and no neighbour in its chunk is hurt."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from models.recipes import digits
from tests.helpers.bad_inputs import OK, Odd, write_odd_files
from visionpipe.runs import run_folder

LABEL, INDEX = "6", 6


def outcome(line: dict) -> str:
    if line["state"] == "done":
        return OK
    return line["reason"] if line["state"] == "skipped" else line["error"]["code"]


def raw_path(line: dict) -> bytes:
    return base64.b64decode(line["path_base64"]) if line["path_base64"] else line["path"].encode()


def print_table(odd: list[Odd], lines: dict[bytes, dict]) -> None:
    for entry in odd:
        line = lines[entry.name]
        answer = line["result"]["classes"][0]["label"] if line["result"] else (line["error"] or {}).get("message", "")
        print(f"{entry.what:30} {outcome(line):18} {str(answer)[:90]}")


@pytest.mark.parametrize("how", ["uploaded", "by reference"])
async def test_odd_files_are_right_and_bad_ones_are_told_in_one_chunk(client, service, tmp_path, how):
    folder = tmp_path / "in" if how == "uploaded" else service.media_roots["pictures"] / "odd"
    folder.mkdir()
    odd = write_odd_files(folder, digits.pixels()[INDEX], LABEL)
    assert len(odd) >= 45
    report = await run_folder(
        client,
        folder,
        tmp_path / "out",
        task="classification",
        model="lenet-digits",
        settings=service,
        chunk=512,
    )
    texts = (tmp_path / "out" / "results.jsonl").read_text().removesuffix("\n").split("\n")
    lines = {raw_path(line): line for line in map(json.loads, texts)}
    print_table(odd, lines)
    assert set(lines) == {entry.name for entry in odd}
    assert report.found == report.done + report.failed + report.skipped == len(odd)
    wrong = {
        entry.what: outcome(lines[entry.name]) for entry in odd if outcome(lines[entry.name]) not in entry.expected
    }
    assert not wrong
    labels = {entry.what: lines[entry.name]["result"]["classes"][0]["label"] for entry in odd if entry.label}
    assert {what: label for what, label in labels.items() if label != LABEL} == {}
    assert all(line["error"]["message"] for line in lines.values() if line["state"] == "failed")
    assert (await client.workers())[0].state == "ready"


async def test_a_file_that_may_not_be_read_fails_alone(client, digit_folder, tmp_path, monkeypatch):
    victim = sorted(digit_folder.iterdir())[3]
    victim.chmod(0)
    if os.geteuid() == 0:
        deny(victim, monkeypatch)
    report = await run_folder(client, digit_folder, tmp_path / "out", task="classification", model="lenet-digits")
    assert (report.done, report.failed, report.failures[0].code) == (199, 1, "image_not_found")
    assert "Permission denied" in report.failures[0].example_message


def deny(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give root, who may read everything, the kernel's answer to everybody else."""
    real = os.open

    def refuse(path, *args, **kwargs):
        if path == os.fspath(victim):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
