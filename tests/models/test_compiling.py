"""Packages: their names, what killed compilers leave, and code that answers as the network does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from models import launcher
from models.compiling import (
    HALF_MADE_PREFIX,
    MAX_BATCH,
    Packages,
    compile_network,
    has_compiler,
    load_compiled,
    sweep,
    widened,
)
from models.errors import CompileFailed

SHAPE_CHW = 1, 120, 100
LOCK = ".launcher.lock"
HOLD = """
import sys, time
from pathlib import Path
from models.compiling import _half_made
with _half_made(Path(sys.argv[1])):
    print("made", flush=True)
    time.sleep(60)
"""


def grey() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3)
    return nn.Sequential(*layers).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def packages(folder: Path, part: str = "network", precision: str = "bf16", flags: str = "avx2") -> Packages:
    return Packages(folder, "0123", part, precision, frozenset({flags}), version="1.0")


def test_a_folder_tells_the_shapes_of_one_part_in_one_precision_alone(tmp_path: Path) -> None:
    mine = packages(tmp_path)
    for age, shape in enumerate([(3, 64, 64), (1, 8, 16)]):
        mine.path(shape).touch()
        os.utime(mine.path(shape), (1000 - age, 1000 - age))
    for other in (
        packages(tmp_path, part="features"),
        packages(tmp_path, "network", "fp32"),
        packages(tmp_path, flags="x"),
    ):
        other.path((9, 9, 9)).touch()
    mine.path((3, 5, 5)).with_suffix(".part").touch()
    assert mine.shapes() == [(3, 64, 64), (1, 8, 16)]


def test_what_a_killed_compiler_left_is_swept_and_what_a_living_one_makes_stays(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-P", "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "made\n"
    (half_made,) = tmp_path.iterdir()
    (half_made / "wrapper.cpp").write_text("int main")
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [half_made]
    child.kill()
    child.wait()
    child.stdout.close()
    assert half_made.name.startswith(HALF_MADE_PREFIX)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sweeping_leaves_packages_alone(tmp_path: Path) -> None:
    packages(tmp_path).path((3, 4, 5)).touch()
    sweep(tmp_path)
    assert packages(tmp_path).shapes() == [(3, 4, 5)]


def test_a_widened_network_answers_the_same_and_leaves_the_original_as_it_was() -> None:
    network, x_NCHW = grey(), torch.rand(3, 1, 9, 7)
    wide = widened(network)
    torch.testing.assert_close(wide(x_NCHW), network(x_NCHW), atol=1e-6, rtol=0)
    assert network[0].weight.shape == (8, 1, 3, 3)
    alone = widened(network[0])
    torch.testing.assert_close(alone(x_NCHW), network[0](x_NCHW), atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled network, made as the child makes it: on one thread, which leaves the other cores to the worker."""
    if not has_compiler():
        pytest.skip("there is no C++ compiler here")
    path = packages(tmp_path_factory.mktemp("compiled")).path(SHAPE_CHW)
    threads, mask = torch.get_num_threads(), os.umask(0o002)
    try:
        torch.set_num_threads(1)
        compile_network(grey(), SHAPE_CHW, path, dtype=torch.float32)
    finally:
        torch.set_num_threads(threads)
        os.umask(mask)
    return path


def test_a_network_of_one_channel_is_compiled_to_code_that_answers_the_same_on_any_number_of_threads(
    package: Path,
) -> None:
    network, compiled, threads = grey(), load_compiled(package), torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            for size in (1, 3, 16):
                x_NCHW = torch.rand(size, *SHAPE_CHW).contiguous(memory_format=torch.channels_last)
                torch.testing.assert_close(compiled(x_NCHW), network(x_NCHW), atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(threads)
    assert MAX_BATCH > 16


def test_a_package_and_its_launcher_are_all_that_is_left_and_nobody_else_may_write_them(package: Path) -> None:
    files = [file for file in sorted(package.parent.iterdir()) if file.name != LOCK]
    assert files == sorted([package, launcher.place(package.parent)])
    # Others would not be loaded.
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_other_threads_run_while_a_compiled_network_does(package: Path) -> None:
    compiled, ticks = load_compiled(package), [time.perf_counter()]
    x_NCHW = torch.rand(2048, *SHAPE_CHW).contiguous(memory_format=torch.channels_last)
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.002):
            ticks.append(time.perf_counter())

    clock = threading.Thread(target=tick)
    clock.start()
    threads = torch.get_num_threads()
    # On one core, so that it takes a while on any machine.
    torch.set_num_threads(1)
    began = time.perf_counter()
    compiled(x_NCHW)
    ended = time.perf_counter()
    torch.set_num_threads(threads)
    done.set()
    clock.join()
    during = [at for at in ticks if began < at < ended]
    assert len(during) >= 5
    # Not all at the ends, where Python runs anyhow.
    middle = [at for at in during if 0.2 < (at - began) / (ended - began) < 0.8]
    assert len(middle) >= 2


def test_a_launcher_that_is_gone_is_built_anew_by_one_of_those_who_compile(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []

    def build(path: Path) -> None:
        built.append(path)
        time.sleep(0.2)
        shutil.copy(launcher.place(package.parent), path)

    alone = tmp_path / package.name
    shutil.copy(package, alone)
    monkeypatch.setattr(launcher, "_is_loaded", False)
    monkeypatch.setattr(launcher, "build", build)
    # What torch has registered once cannot be registered again.
    monkeypatch.setattr(torch.classes, "load_library", lambda path: None)
    with pytest.raises(CompileFailed, match="launcher"):
        load_compiled(alone)
    before = alone.stat().st_mtime_ns
    # As compilers for several shapes would, at the same time.
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: compile_network(grey(), SHAPE_CHW, alone, dtype=torch.float32), range(3)))
    assert len(built) == 1
    assert alone.stat().st_mtime_ns == before
    assert {file.name for file in tmp_path.iterdir()} == {alone.name, launcher.place(tmp_path).name, LOCK}
    x_NCHW = torch.zeros(1, *SHAPE_CHW)
    torch.testing.assert_close(load_compiled(alone)(x_NCHW), grey()(x_NCHW), atol=1e-5, rtol=1e-5)


def test_a_launcher_that_others_may_write_or_that_is_none_is_not_loaded(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_is_loaded", False)
    alone, beside = tmp_path / package.name, launcher.place(tmp_path)
    shutil.copy(package, alone)
    shutil.copy(launcher.place(package.parent), beside)
    beside.chmod(0o666)
    with pytest.raises(CompileFailed, match=r"launcher that nobody else .* can be written by others"):
        launcher.launch(alone)
    beside.write_bytes(b"no library")
    beside.chmod(0o600)
    with pytest.raises(CompileFailed, match=r"Expected a launcher in .* Delete it"):
        load_compiled(alone)


def test_a_compiler_that_fails_is_said_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_is_loaded", False)
    made = tmp_path / "made"
    made.mkdir()
    for name, script in {"absent": None, "failing": "echo 'x.h: error: no such file' >&2; exit 1"}.items():
        compiler = tmp_path / name
        if script is not None:
            compiler.write_text(f"#!/bin/sh\n{script}\n")
            compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        with pytest.raises(CompileFailed, match="builds against torch"):
            compile_network(grey(), SHAPE_CHW, made / "x.pt2", dtype=torch.float32)
        assert [file.name for file in made.iterdir()] == [LOCK]


def test_a_network_that_cannot_be_exported_is_said_to_fail_and_leaves_nothing(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    shutil.copy(launcher.place(package.parent), launcher.place(tmp_path))

    class Fickle(nn.Module):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return x_NCHW if float(x_NCHW.sum()) > 0 else -x_NCHW

    with pytest.raises(CompileFailed, match="can export and compile"):
        compile_network(Fickle(), (1, 4, 4), path, dtype=torch.float32)
    assert list(path.parent.glob("[!.]*")) == [launcher.place(path.parent)]
