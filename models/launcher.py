"""The few lines of C++ by which compiled networks run while other threads do; built once for each version of torch.

``aoti_load_package`` holds Python's lock for as long as a batch takes: nothing is read, committed or renewed meanwhile.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import torch

from models.errors import CompileFailed
from models.trust import why_not_private

SOURCE = Path(__file__).with_name("launcher.cpp")
TORCH_VERSION = torch.__version__.partition("+")[0]
FORMAT = 1
"""Raised whenever the source changes."""
BUILD_S = 300
"""A compiler that takes longer than this is given up."""

_lock = threading.Lock()
_is_loaded = False


def place(folder: Path) -> Path:
    """Tell where the launcher lies that belongs to a folder's packages, or would."""
    return folder / f"launcher-{FORMAT}-torch{TORCH_VERSION}-{platform.machine()}.so"


def compiler() -> str:
    """Name the C++ compiler."""
    return os.environ.get("CXX", "g++")


def build(path: Path) -> None:
    """Compile the launcher.

    Raises:
        CompileFailed: The compiler cannot be run, or fails.
    """
    torch_folder = Path(torch.__file__).parent
    headers = torch_folder / "include"
    words = [
        compiler(), "-O1", "-w", "-std=c++20", "-shared", "-fPIC",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{headers}", f"-I{headers / 'torch' / 'csrc' / 'api' / 'include'}", str(SOURCE), "-o", str(path),
        f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10",
    ]  # fmt: skip
    try:
        said = _run(words)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileFailed(f"Expected a C++ compiler that builds against torch: {error}.") from error
    if said is not None:
        raise CompileFailed(f"Expected a C++ compiler that builds against torch: {said}.")
    path.chmod(0o600)


def _run(words: list[str]) -> str | None:
    """Run a compiler; says what is wrong, if anything is."""
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate(timeout=BUILD_S)
    except BaseException:
        # With the processes that do its work.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode == 0:
        return None
    return next((line for line in said.splitlines() if "error" in line), "it ended without a word")


def is_wanted(folder: Path) -> bool:
    """Whether a folder's packages cannot be run until the launcher has been built there."""
    return not _is_loaded and why_not_private(place(folder)) is not None


def launch(package: Path) -> Any:
    """Load a compiled network; what comes back has ``run``, a list of tensors to another, and ``call_spec``.

    Raises:
        CompileFailed: There is no launcher beside it, it cannot be loaded, or another user may have put it there.
        RuntimeError: The package is damaged.
    """
    global _is_loaded
    with _lock:
        # What torch has registered stays for as long as the process, so the first one serves all folders.
        if not _is_loaded:
            path = place(package.parent)
            if (danger := why_not_private(path)) is not None:
                raise CompileFailed(f"Expected a launcher that nobody else can have written, but {danger}.")
            try:
                torch.classes.load_library(str(path))
            except (OSError, RuntimeError) as error:
                raise CompileFailed(f"Expected a launcher in {path}, got: {error}. Delete it.") from error
            _is_loaded = True
    return torch.classes.visionpipe.Package(str(package))
