"""Compiling a network ahead of time into one file that another process loads in a moment.

AOTInductor packages (``torch.export``, then C++ of the whole graph): for ResNet-50 in bf16 they load in a tenth of a
second, while a warmed cache of ``torch.compile`` traces the network anew in every process. One package serves every
batch size of one input shape; leaving height and width open as well costs U-Net and YOLO what compiling gains.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from models import launcher
from models.errors import CompileFailed
from models.trust import why_not_private

SUFFIX = ".pt2"
UNPACKED_PREFIX = "aotinductor_"
"""Beginning of the names of the temporary folders that torch unpacks packages into."""
FORMAT = 3
"""Raised whenever another version of this file makes other packages."""
HALF_MADE_PREFIX = ".compiling-"
"""Beginning of the names of the folders in which packages are made."""
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MAX_BATCH = 4096
"""Largest batch that a package serves; no card allows more."""
EXAMPLE_BATCH = 4
"""Images in the batch that is traced; one alone would be taken for a constant."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which generated code needs."""
    return shutil.which(launcher.compiler()) is not None


class Packages:
    """The compiled forms of one part of one model that a folder holds, one for each input shape.

    They fit one version of the model, of our code and torch, and one kind of processor.

    Args:
        folder: Where they lie.
        digest: Of the model.
        part: What of the network is compiled.
        precision: In which it computes.
        cpu_flags: Of the processor.
        version: Of our code.
    """

    def __init__(
        self, folder: Path, digest: str, part: str, precision: str, cpu_flags: frozenset[str], *, version: str
    ) -> None:
        machine = hashlib.sha256(" ".join(sorted(cpu_flags)).encode()).hexdigest()[:8]
        self._folder = folder
        self._begin = f"{digest}-{part}-{precision}-"
        ours = f"{version}.{FORMAT}.{launcher.FORMAT}"
        self._end = f"-{ours}-torch{launcher.TORCH_VERSION}-{machine}{SUFFIX}"

    def path(self, shape_CHW: tuple[int, ...]) -> Path:
        """Where the package for inputs of a shape lies, or would."""
        return self._folder / f"{self._begin}{'x'.join(map(str, shape_CHW))}{self._end}"

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes there are packages for, the newest first."""
        found: list[tuple[float, tuple[int, ...]]] = []
        for path in self._folder.glob(f"{self._begin}*{self._end}"):
            size = path.name[len(self._begin) : -len(self._end)]
            if re.fullmatch(r"\d+(x\d+)*", size):
                found.append((path.stat().st_mtime, tuple(map(int, size.split("x")))))
        return [shape for _, shape in sorted(found, reverse=True)]


def compile_network(network: nn.Module, shape_CHW: tuple[int, ...], path: Path, *, dtype: torch.dtype) -> None:
    """Compile a network for inputs of one shape, in any batch up to ``MAX_BATCH``, and what runs it.

    What is there already stays.

    Args:
        network: In eval mode, on the CPU, in the precision it shall compute in.
        shape_CHW: Channels, height and width of an input.
        path: Where the package is written, all at once.
        dtype: Of an input.

    Raises:
        CompileFailed: The network cannot be exported, or the compiler fails.
    """
    _have_launcher(path.parent)
    if path.exists():
        return
    example = torch.zeros(EXAMPLE_BATCH, *shape_CHW, dtype=dtype).contiguous(memory_format=torch.channels_last)
    # Written beside its place first: a package that is half written must never be loaded.
    with _half_made(path.parent) as folder:
        made = folder / f"package{SUFFIX}"
        try:
            with _private_cache(folder / "cache"):
                _compile(widened(network), example, made)
        except Exception as error:
            raise CompileFailed(
                f"Expected a network that torch can export and compile, got {type(error).__name__}: {error}. "
                "It is served without compilation."
            ) from error
        # Whatever the umask is: one that the group may write is never loaded.
        made.chmod(0o600)
        made.replace(path)


def _have_launcher(folder: Path) -> None:
    if not launcher.is_wanted(folder):
        return
    # Those who compile for the folder's other shapes want the same.
    with (folder / ".launcher.lock").open("w") as lock, _half_made(folder) as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if launcher.is_wanted(folder):
            launcher.build(scratch / "launcher.so")
            (scratch / "launcher.so").replace(launcher.place(folder))


def sweep(folder: Path) -> None:
    """Delete what killed compilers have left half made."""
    for left in folder.glob(f"{HALF_MADE_PREFIX}*"):
        with _locked(left) as is_ours:
            if is_ours:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _private_cache(folder: Path) -> Iterator[None]:
    """Keep generated code out of the usual folder in /tmp, whose name anybody can guess and make beforehand."""
    before = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE_VARIABLE]
        else:
            os.environ[CACHE_VARIABLE] = before


@contextmanager
def _half_made(parent: Path) -> Iterator[Path]:
    made = tempfile.TemporaryDirectory(dir=parent, prefix=HALF_MADE_PREFIX, ignore_cleanup_errors=True)
    # Locked for as long as this process lives, so that nobody sweeps it away.
    with made as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Take a folder's lock, if nobody else has it; says whether that is so."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def widened(network: nn.Module) -> nn.Module:
    """Copy a network so that no convolution in it has a single input channel: they get a second, of weight 0.

    With frozen weights and an open batch size, torch 2.11 to 2.15 compiles such a convolution to code that answers
    otherwise.
    """
    copied = copy.deepcopy(network)
    for name, module in list(copied.named_modules()):
        if type(module) is nn.Conv2d and module.in_channels == 1:
            parent, _, last = name.rpartition(".")
            if not name:
                return _Widened(module)
            setattr(copied.get_submodule(parent), last, _Widened(module))
    return copied


class _Widened(nn.Module):
    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        conv.weight = nn.Parameter(torch.cat([conv.weight, torch.zeros_like(conv.weight)], dim=1), requires_grad=False)
        conv.in_channels = 2

    def forward(self, x_N1HW: Tensor) -> Any:
        return self.conv(x_N1HW.expand(-1, 2, -1, -1))


def load_compiled(path: Path) -> Callable[[Tensor], Any]:
    """Load a package; the answer is called with a batch (N, C, H, W), channels last, as the network would be.

    Raises:
        CompileFailed: The file is damaged, was made for another kind of machine, or may have been put there by another
            user.
    """
    if (danger := why_not_private(path)) is not None:
        raise CompileFailed(f"Expected a compiled model that nobody else can have written, but {danger}.")

    before = _mapped()
    try:
        loaded = _Loaded(launcher.launch(path))
    except (RuntimeError, OSError, ValueError) as error:
        raise CompileFailed(f"Expected a compiled model in {path}, got: {error}. Delete it.") from error
    _forget_copies(_mapped() - before)
    return loaded


class _Loaded:
    """A compiled network that is called as the network would be.

    Args:
        package: What the launcher gave.
    """

    def __init__(self, package: Any) -> None:
        self._package = package
        _, outputs = package.call_spec()
        self._nesting = pytree.treespec_loads(outputs)

    def __call__(self, x_NCHW: Tensor) -> Any:
        return pytree.tree_unflatten(self._package.run([x_NCHW]), self._nesting)


def _mapped() -> set[Path]:
    """List the files that are mapped into this process; none where the system does not tell."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return set()
    return {Path(words[5]) for line in maps.read_text().splitlines() if len(words := line.split(maxsplit=5)) == 6}


def _forget_copies(files: set[Path]) -> None:
    """Delete the folders that torch unpacked a package into: what is mapped stays, and a killed process would not.

    Args:
        files: Those that were mapped by loading it.
    """
    for file in files:
        for folder in file.parents:
            if folder.name.startswith(UNPACKED_PREFIX):
                shutil.rmtree(folder, ignore_errors=True)


@torch.inference_mode()
def _compile(network: nn.Module, example: Tensor, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with warnings.catch_warnings():
        # Of anchors, which YOLO's head keeps for the next batch of the same size.
        warnings.filterwarnings("ignore", message="The tensor attribute")
        exported = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    # As many threads as the caller has set; otherwise those of this process, which compiles with one, are written down.
    how = {"freezing": True, "cpp.dynamic_threads": True}
    aoti_compile_and_package(exported, package_path=str(path), inductor_configs=how)
