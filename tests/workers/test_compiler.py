"""Compiling beside serving: earned, kept, checked, swapped in."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import launcher
from models.catalog import Catalog
from models.compiling import has_compiler, load_compiled
from visionpipe.settings import Settings
from workers import compiler as compiler_module
from workers.classification import ClassificationRuntime
from workers.compiler import Compiler, why_eager
from workers.hosted import HostedModel

CARD = """
name = "small"
tasks = ["classification"]
network = "net:Small"
licence = "CC0-1.0"
[preprocess]
resize = {resize}
[provenance]
origin = "made for a test"
"""
NETWORK = """
import torch

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
        )

    def forward(self, x_NCHW):
        return self.body(x_NCHW)
"""

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler here")


def write(folder: Path, resize: str = "[32, 32]") -> Path:
    (folder / "small").mkdir(parents=True)
    (folder / "small" / "card.toml").write_text(CARD.format(resize=resize))
    (folder / "small" / "net.py").write_text(NETWORK)
    return folder


class Beside:
    """A hosted model, its compiler, and a device thread that does what it is asked at once."""

    def __init__(
        self, models: Path, data_dir: Path, quicker: Callable[[Any, Any], Any] = lambda *_: iter(()), **settings: Any
    ) -> None:
        self.hosted = HostedModel(Catalog(models).find("small"), device="cpu")
        self.hosted.set_precision("fp32")
        self.runtime = ClassificationRuntime(self.hosted)
        self.told: list[str] = []
        self.threads: list[threading.Thread] = []
        self.compiler = Compiler(
            self.hosted,
            {"classification": self.runtime},
            Settings(models=models, data_dir=data_dir, **settings),
            between=self.between,
            told=self.told.append,
            quicker=quicker,
        )

    def between(self, chore: Callable[[], None]) -> None:
        self.threads.append(threading.Thread(target=chore))
        self.threads[-1].start()

    def why_eager(self) -> str | None:
        return why_eager(self.hosted, {"classification": self.runtime}, Settings())

    def settle(self, timeout_s: float = 400) -> str:
        until = time.monotonic() + timeout_s
        while not self.told or self.told[-1] == "compiling" or self.told[-1].endswith("yet"):
            assert time.monotonic() < until, self.told
            time.sleep(0.05)
        return self.told[-1]

    @property
    def compiled(self) -> Callable[[Tensor], Tensor] | None:
        return self.hosted.answering._compiled.get((3, 32, 32))


def wait_until(holds: Callable[[], bool], timeout_s: float = 30) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data_dir(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one compilation by a real child process has left its package."""
    folder = tmp_path_factory.mktemp("data")
    beside = Beside(models, folder, compile="now")
    beside.compiler.start()
    assert beside.settle() == "compiled"
    assert beside.told == ["compiling", "compiled"]
    return folder


@needs_compiler
def test_the_next_worker_takes_the_package_at_once_and_answers_the_same_in_every_batch(
    models: Path, data_dir: Path
) -> None:
    (package,) = (data_dir / "compiled").glob("*.pt2")
    made_at = package.stat().st_mtime_ns
    beside = Beside(models, data_dir)
    beside.compiler.start()
    assert beside.settle(30) == "compiled"
    assert beside.told == ["compiled"]
    assert package.stat().st_mtime_ns == made_at
    assert beside.compiled is not None
    for size in (1, 2, 5, 16):
        x_NCHW = beside.hosted.to_input(torch.rand(size, 3, 32, 32, generator=torch.Generator().manual_seed(size)))
        with torch.inference_mode():
            told = beside.hosted.classifier()(x_NCHW)
            torch.testing.assert_close(told, beside.hosted.master(x_NCHW), atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(told, beside.compiled(x_NCHW), atol=0, rtol=0)


@needs_compiler
def test_what_runs_a_package_is_made_again_by_the_child_and_the_package_is_not(
    models: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_dir / "compiled"
    (package,) = folder.glob("*.pt2")
    copied = tmp_path / "compiled" / package.name
    copied.parent.mkdir(mode=0o700)
    shutil.copy2(package, copied)
    monkeypatch.setattr(launcher, "_is_loaded", False)
    # What torch has registered once cannot be registered again.
    monkeypatch.setattr(torch.classes, "load_library", lambda path: None)
    beside = Beside(models, tmp_path)
    beside.compiler.start()
    assert beside.settle() == "compiled"
    assert beside.told == ["compiling", "compiled"]
    assert launcher.place(copied.parent).exists()
    assert copied.stat().st_mtime_ns == package.stat().st_mtime_ns


@needs_compiler
@pytest.mark.parametrize("fails", [False, True], ids=["works", "fails"])
def test_what_a_quicker_network_allows_is_done_by_the_device_thread_once_it_answers(
    models: Path, data_dir: Path, fails: bool
) -> None:
    seen: list[Any] = []

    def quicker(tasks: Any, shape: Any) -> Any:
        for step in (1, 2):
            seen.append((tasks, shape, step, threading.current_thread() in beside.threads, beside.compiled is not None))
            yield step
            if fails:
                raise RuntimeError("no")

    beside = Beside(models, data_dir, quicker)
    beside.compiler.start()
    assert beside.settle(30) == "compiled"
    expected = [(("classification",), (3, 32, 32), step, True, True) for step in (1, 2)]
    assert seen == expected[: 1 if fails else 2]


@needs_compiler
def test_compiled_code_that_answers_otherwise_is_not_used(
    models: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compiler_module.load_compiled
    monkeypatch.setattr(compiler_module, "load_compiled", lambda path: lambda x: real(path)(x).flip(1))
    beside = Beside(models, data_dir)
    beside.compiler.start()
    assert beside.settle(30) == "eager: the compiled network answers otherwise"
    assert beside.compiled is None


@needs_compiler
def test_compiled_code_that_fails_leaves_the_worker_alive_and_eager(
    models: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "load_compiled", lambda _: lambda x: x)
    beside = Beside(models, data_dir)
    beside.compiler.start()
    assert beside.settle(30).startswith("eager")
    assert beside.compiled is None


@needs_compiler
def test_loading_leaves_no_unpacked_copy_behind(data_dir: Path) -> None:
    (package,) = (data_dir / "compiled").glob("*.pt2")
    copies = lambda: set(Path(tempfile.gettempdir()).glob("aotinductor_*"))  # noqa: E731
    before = copies()
    compiled = load_compiled(package)
    assert copies() <= before
    x_NCHW = torch.zeros(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    assert compiled(x_NCHW).shape == (2, 5)
    del compiled


@needs_compiler
def test_a_compiler_ends_with_the_thread_that_wants_it(models: Path, tmp_path: Path) -> None:
    beside = Beside(models, tmp_path, compile="now")
    beside.compiler.start()
    wait_until(lambda: beside.compiler._child is not None)
    beside.compiler.close()
    assert beside.settle(30).startswith("eager")
    child = beside.compiler._child
    assert child is not None
    assert child.poll() is not None
    assert list((tmp_path / "compiled").iterdir()) == []


@needs_compiler
def test_a_damaged_package_leaves_the_worker_eager(models: Path, data_dir: Path, tmp_path: Path) -> None:
    (package,) = (data_dir / "compiled").glob("*.pt2")
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / package.name).write_bytes(package.read_bytes()[:1000])
    beside = Beside(models, tmp_path)
    beside.compiler.start()
    assert beside.settle(30).startswith("eager")
    assert beside.compiled is None


@needs_compiler
def test_nothing_is_compiled_before_the_device_has_earned_it(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "LOOK_S", 0.01)
    monkeypatch.setattr(Compiler, "_compile", lambda *_: (_ for _ in ()).throw(compiler_module.CompileFailed("tried")))
    beside = Beside(models, tmp_path)
    beside.compiler.start()
    time.sleep(0.1)
    assert [state.endswith("yet") for state in beside.told] == [True]
    beside.hosted.answering.spent_s[3, 32, 32] = compiler_module.EARNED_S + 1
    assert beside.settle(10) == "eager: it could not be compiled"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda beside: None, "VISIONPIPE_COMPILE is off"),
        (lambda beside: beside.compiler.__dict__.update(_settings=Settings(), _runtimes={}), "nothing is compiled for"),
    ],
    ids=["off", "another_task"],
)
def test_what_is_not_compiled_says_why(models: Path, tmp_path: Path, change: Any, says: str) -> None:
    beside = Beside(models, tmp_path, compile="off")
    change(beside)
    beside.compiler.start()
    assert beside.settle(1).startswith(f"eager: {says}")


def test_without_a_compiler_the_worker_stays_eager(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "g++" in (Beside(models, tmp_path).why_eager() or "")


def test_a_folder_that_cannot_be_written_leaves_the_worker_eager(models: Path, tmp_path: Path) -> None:
    (tmp_path / "compiled").write_text("a file where the folder should be")
    beside = Beside(models, tmp_path)
    beside.compiler.start()
    assert beside.settle(10) == "eager: it could not be compiled"


@needs_compiler
def test_nothing_is_compiled_into_a_folder_that_others_may_write(models: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    beside = Beside(models, tmp_path, compile="now")
    beside.compiler.start()
    assert beside.settle(10) == f"eager: {tmp_path} can be written by others (mode 775)"
    assert not list(tmp_path.rglob("*.pt2"))


@needs_compiler
def test_a_shape_that_no_card_names_is_compiled_for_once_it_has_earned_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "LOOK_S", 0.05)
    monkeypatch.setattr(compiler_module, "EARNED_S", 1e-6)
    beside = Beside(write(tmp_path / "models", resize="32"), tmp_path)
    x_NCHW = beside.hosted.to_input(torch.rand(3, 3, 40, 32))
    before = beside.hosted.answering(x_NCHW)
    beside.compiler.start()
    assert beside.settle() == "compiled"
    assert beside.hosted.answering.shapes == {(3, 40, 32)}
    torch.testing.assert_close(beside.hosted.answering(x_NCHW), before, atol=1e-4, rtol=1e-4)
    # Other shapes, and another dtype, stay eager.
    assert beside.hosted.answering(beside.hosted.to_input(torch.rand(1, 3, 32, 40))).shape == (1, 5)
    beside.compiler.close()
