"""Compiles the hosted network beside serving, and swaps it in between two micro-batches.

Compiling takes about as long as the network computes in ten to sixty seconds, so a worker does it once the device has
been busy for that long: one that ends after a few images never pays for it. The package stays for the next worker.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from models.compiling import has_compiler, load_compiled, package_name
from models.errors import CompileFailed
from visionpipe.settings import Settings
from visionpipe.tether import tethered
from workers.device import cpu_flags, is_fatal
from workers.hosted import HostedModel
from workers.runtime import Runtime
from workers.threads import use_cores
from workers.version import version

logger = logging.getLogger("visionpipe.compiler")

TASK = "classification"
"""Whose runtime answers with compiled code."""
EARNED_S = 20.0
"""How long the device must have computed before compiling is worth its while."""
LOOK_S = 1.0
END_S = 10.0
"""How long a compiler that is given up may take to clear away."""
COMPILE_S = 900.0
"""A compiler that takes longer than this is given up."""


def why_eager(hosted: HostedModel, runtimes: Mapping[str, Runtime], settings: Settings) -> str | None:
    """Say why a network is not compiled, if it is not."""
    if settings.compile == "off":
        return "VISIONPIPE_COMPILE is off"
    if TASK not in runtimes:
        return f"only networks for {TASK} are compiled"
    if hosted.device.torch_device.type != "cpu":
        return "only networks on a CPU are compiled"
    if input_shape(hosted) is None:
        return "the network's input has no fixed size"
    if not has_compiler():
        return "there is no C++ compiler (g++)"
    return None


def input_shape(hosted: HostedModel) -> tuple[int, int, int] | None:
    """Channels, height and width of the network's input, where the card fixes them."""
    card = hosted.card
    size_hw = card.preprocess.input_size_hw
    if size_hw is None or card.hooks.preprocess is not None:
        return None
    return (len(card.preprocess.mode), *size_hw)


class Compiler:
    """The compiled form of one hosted network.

    Args:
        hosted: The model.
        runtimes: Those of the model, by task.
        settings: Where packages are kept, and whether to compile at all.
        busy_s: Tells for how long the device has computed.
        between: Has something done by the device thread between two steps.
        told: Called with the new state whenever it changes: ``compiling``, ``compiled``, or why it stays ``eager``.
    """

    def __init__(
        self,
        hosted: HostedModel,
        runtimes: Mapping[str, Runtime],
        settings: Settings,
        *,
        busy_s: Callable[[], float],
        between: Callable[[Callable[[], None]], None],
        told: Callable[[str], None],
    ) -> None:
        self._hosted = hosted
        self._runtimes = runtimes
        self._settings = settings
        self._busy_s = busy_s
        self._between = between
        self._told = told
        self._child: subprocess.Popen[str] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compiler", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        if (reason := why_eager(self._hosted, self._runtimes, self._settings)) is not None:
            self._told(f"eager: {reason}")
            return
        self._thread.start()

    def close(self) -> None:
        """End; a compilation under way is given up."""
        self._closing.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _run(self) -> None:
        use_cores(1)
        shape = input_shape(self._hosted)
        assert shape is not None
        digest, precision = self._hosted.entry.digest, self._hosted.device.precision
        name = package_name(digest, precision, shape, frozenset(cpu_flags()), version=version())
        try:
            folder = self._settings.data_dir.expanduser() / "compiled"
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / name).exists():
                if not self._wait_until_earned():
                    return
                self._told("compiling")
                self._compile(folder / name, shape)
            self._swap_in(folder / name, shape)
        except (CompileFailed, OSError, RuntimeError) as error:
            # For example a user without a home, a read-only file system, or a full one.
            logger.warning("%s is served eagerly: %s", self._hosted.card.name, error)
            self._told("eager: it could not be compiled")

    def _wait_until_earned(self) -> bool:
        while self._settings.compile != "now" and self._busy_s() < EARNED_S:
            if self._closing.wait(LOOK_S):
                return False
        return True

    def _compile(self, path: Path, shape: tuple[int, int, int]) -> None:
        entry, started = self._hosted.entry, time.monotonic()
        models = [] if self._settings.models is None else ["--models-folder", str(self._settings.models)]
        words = [
            sys.executable, "-P", "-m", "workers.compile_child", entry.target, str(path), *models,
            "--precision", self._hosted.device.precision, "--shape", *map(str, shape),
        ]  # fmt: skip
        # Tied to this thread, which lives as long as the process: no worker that is killed leaves a compiler behind.
        words = tethered(words, signal.SIGTERM)
        self._child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if self._closing.is_set():
            self._child.terminate()
        try:
            _, said = self._child.communicate(timeout=COMPILE_S)
        except subprocess.TimeoutExpired:
            self._end_child()
            raise CompileFailed(f"The compiler took longer than {COMPILE_S:.0f} s.") from None
        if self._child.returncode != 0 or not path.exists():
            raise CompileFailed(said.strip().splitlines()[-1] if said.strip() else "The compiler ended without a word.")
        logger.info("compiled %s in %.0f s", entry.target, time.monotonic() - started)

    def _end_child(self) -> None:
        """Let the child clear away what is half made; it is killed if it does not."""
        assert self._child is not None
        self._child.terminate()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _swap_in(self, path: Path, shape: tuple[int, int, int]) -> None:
        compiled = load_compiled(path)
        done = threading.Event()

        def swap() -> None:
            # On the device thread: it alone computes, and nothing else is under way.
            try:
                self._swap(compiled, shape)
            finally:
                done.set()

        self._between(swap)
        while not done.wait(LOOK_S):
            if self._closing.is_set():
                return

    def _swap(self, compiled: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> None:
        try:
            faithful = self._runtimes[TASK].agrees_with(compiled)
        except Exception as error:
            if is_fatal(error):
                raise
            # Anything else would end the device thread, and every worker after it with the same package.
            logger.warning("the compiled %s cannot be run: %s", self._hosted.card.name, error)
            faithful = False
        if faithful:
            self._hosted.answering.use(compiled, shape)
            self._told("compiled")
        else:
            logger.warning("the compiled %s answers otherwise and is not used", self._hosted.card.name)
            self._told("eager: the compiled network answers otherwise")
