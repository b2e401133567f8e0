"""Packages: their names, what killed compilers leave, and code that answers as the network does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

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


@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler here")
def test_a_network_of_one_channel_is_compiled_to_code_that_answers_the_same_on_any_number_of_threads(
    tmp_path: Path,
) -> None:
    network, path = grey(), packages(tmp_path).path((1, 12, 10))
    threads, mask = torch.get_num_threads(), os.umask(0o002)
    try:
        # As the child does, which leaves the other cores to the worker.
        torch.set_num_threads(1)
        compile_network(network, (1, 12, 10), path, dtype=torch.float32)
        compiled = load_compiled(path)
        for number in (1, 2):
            torch.set_num_threads(number)
            for size in (1, 3, 16):
                x_NCHW = torch.rand(size, 1, 12, 10).contiguous(memory_format=torch.channels_last)
                torch.testing.assert_close(compiled(x_NCHW), network(x_NCHW), atol=1e-5, rtol=1e-5)
    finally:
        torch.set_num_threads(threads)
        os.umask(mask)
    # A file that the group may write would not have been loaded.
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert MAX_BATCH > 16


def test_a_network_that_cannot_be_exported_is_said_to_fail_and_leaves_nothing(tmp_path: Path) -> None:
    class Fickle(nn.Module):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return x_NCHW if float(x_NCHW.sum()) > 0 else -x_NCHW

    with pytest.raises(CompileFailed, match="can export and compile"):
        compile_network(Fickle(), (1, 4, 4), tmp_path / "x.pt2", dtype=torch.float32)
    assert list(tmp_path.iterdir()) == []
