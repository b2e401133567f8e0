"""Compiling a network ahead of time into one file that another process loads in a moment.

AOTInductor packages (``torch.export``, then C++ of the whole graph): for ResNet-50 in bf16 they load in a tenth of a
second, while a warmed cache of ``torch.compile`` traces the network anew in every process. One package serves every
batch size.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from models.errors import CompileFailed

SUFFIX = ".pt2"
UNPACKED_PREFIX = "aotinductor_"
"""Beginning of the names of the temporary folders that torch unpacks packages into."""
MAX_BATCH = 4096
"""Largest batch that a package serves; no card allows more."""
EXAMPLE_BATCH = 4
"""Images in the batch that is traced; one alone would be taken for a constant."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which generated code needs."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def package_name(
    digest: str, precision: str, shape_CHW: tuple[int, ...], cpu_flags: frozenset[str], *, version: str
) -> str:
    """Name the file of a compiled model; it fits one version of the model, of our code and torch, and one processor."""
    machine = hashlib.sha256(" ".join(sorted(cpu_flags)).encode()).hexdigest()[:8]
    size = "x".join(map(str, shape_CHW))
    return f"{digest}-{precision}-{size}-{version}-torch{torch.__version__.partition('+')[0]}-{machine}{SUFFIX}"


def compile_network(network: nn.Module, shape_CHW: tuple[int, ...], path: Path) -> None:
    """Compile a network for inputs of one shape, in any batch up to ``MAX_BATCH``.

    Args:
        network: In eval mode, on the CPU, in the precision it shall compute in.
        shape_CHW: Channels, height and width of an input.
        path: Where the package is written, all at once.

    Raises:
        CompileFailed: The network cannot be exported, or the compiler fails.
    """
    dtype = next(network.parameters(), torch.zeros(0)).dtype
    example = torch.zeros(EXAMPLE_BATCH, *shape_CHW, dtype=dtype).contiguous(memory_format=torch.channels_last)
    # Written beside its place first: a package that is half written must never be loaded.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compiling-") as folder:
        made = Path(folder) / f"package{SUFFIX}"
        try:
            _compile(network, example, made)
        except Exception as error:
            raise CompileFailed(
                f"Expected a network that torch can export and compile, got {type(error).__name__}: {error}. "
                "It is served without compilation."
            ) from error
        made.replace(path)


def load_compiled(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a package; the answer is called with a batch (N, C, H, W) as the network would be.

    Raises:
        CompileFailed: The file is damaged, or was made for another kind of machine.
    """
    from torch._inductor import aoti_load_package

    before = _mapped()
    try:
        loaded: Callable[[Tensor], Tensor] = aoti_load_package(str(path))
    except (RuntimeError, OSError) as error:
        raise CompileFailed(f"Expected a compiled model in {path}, got: {error}. Delete it.") from error
    _forget_copies(_mapped() - before)
    return loaded


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
    exported = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    aoti_compile_and_package(exported, package_path=str(path), inductor_configs={"freezing": True})
