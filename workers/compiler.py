"""Compiles the hosted network beside serving, and swaps it in between two micro-batches.

Compiling takes about as long as the network computes in ten to sixty seconds, so a worker does it for an input shape
once inputs of that shape have kept the device busy for that long: one that ends after a few images never pays for it.
The packages stay for the next worker. Nothing that is served waits: a shape without a package is computed eagerly.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from models import launcher
from models.compiling import Packages, has_compiler, load_compiled, sweep
from models.errors import CompileFailed
from models.trust import make_private, why_not_private
from visionpipe.settings import Settings
from visionpipe.tether import tethered
from workers.alone import alone
from workers.device import cpu_flags, is_fatal
from workers.hosted import Answering, HostedModel
from workers.runtime import Runtime
from workers.threads import use_cores
from workers.version import version

logger = logging.getLogger("visionpipe.compiler")

EARNED_S = 20.0
"""How long inputs of one shape must have been computed before compiling for them is worth its while."""
MAX_SHAPES = 6
"""Most input shapes that one part of the network is compiled for: each package holds the weights once more."""
LOOK_S = 1.0
END_S = 10.0
"""How long a compiler that is given up may take to clear away."""
COMPILE_S = 900.0
"""A compiler that takes longer than this is given up."""

Shape = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """What is compiled of a network, and for whom."""

    tasks: tuple[str, ...]
    """Those that answer with it."""
    runtimes: tuple[Runtime, ...]
    """Theirs."""
    packages: Packages

    @property
    def answering(self) -> Answering:
        """The part itself."""
        answering = self.runtimes[0].answering
        assert answering is not None
        return answering


def why_eager(hosted: HostedModel, runtimes: Mapping[str, Runtime], settings: Settings) -> str | None:
    """Say why a network is not compiled, if it is not."""
    if settings.compile == "off":
        return "VISIONPIPE_COMPILE is off"
    if hosted.device.torch_device.type != "cpu":
        return "only networks on a CPU are compiled"
    if not has_compiler():
        return "there is no C++ compiler (g++)"
    if all(runtime.answering is None for runtime in runtimes.values()):
        return f"nothing is compiled for {', '.join(runtimes) or 'no task'}"
    return None


class Compiler:
    """The compiled forms of one hosted network.

    Args:
        hosted: The model.
        runtimes: Those of the model, by task.
        settings: Where packages are kept, and whether to compile at all.
        between: Has something done by the device thread between two steps.
        told: Called with the new state whenever it changes: ``compiling``, ``compiled``, or why it stays ``eager``.
        quicker: Gives what the device thread should do, step by step, once compiled code answers tasks for a shape.
    """

    def __init__(
        self,
        hosted: HostedModel,
        runtimes: Mapping[str, Runtime],
        settings: Settings,
        *,
        between: Callable[[Callable[[], None]], None],
        told: Callable[[str], None],
        quicker: Callable[[Sequence[str], Shape], Iterator[object]] = lambda *_: iter(()),
    ) -> None:
        self._hosted = hosted
        self._runtimes = runtimes
        self._settings = settings
        self._between = between
        self._told = told
        self._quicker = quicker
        self._state = ""
        self._child: subprocess.Popen[str] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="compiler", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        if (reason := why_eager(self._hosted, self._runtimes, self._settings)) is not None:
            self._tell(f"eager: {reason}")
            return
        self._thread.start()

    def close(self) -> None:
        """End; a compilation under way is given up."""
        self._closing.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def _tell(self, state: str) -> None:
        """Tell the state; what has been compiled stays so, whatever becomes of other shapes."""
        if self._state != "compiled":
            self._state = state
            self._told(state)

    def _run(self) -> None:
        use_cores(1)
        folder = self._settings.data_dir.expanduser() / "compiled"
        parts = self._parts(folder)
        try:
            make_private(folder)
            sweep(folder)
        except OSError as error:
            self._give_up(error)
            return
        if (danger := why_not_private(folder)) is not None:
            # What is compiled there would be refused afterwards.
            self._tell(f"eager: {danger}")
            return
        for part in parts:
            for shape in part.packages.shapes()[:MAX_SHAPES]:
                self._have(part, shape)
        tried: set[tuple[str, Shape]] = set()
        if not self._state and self._usual(parts[0]) is None:
            self._tell(f"eager: inputs of no shape have been computed for {EARNED_S:.0f} s yet")
        while (wanted := self._next_wanted(parts, tried)) is not None:
            part, shape = wanted
            tried.add((part.answering.part, shape))
            self._have(part, shape)

    def _parts(self, folder: Path) -> list[Part]:
        named: dict[str, list[str]] = {}
        for task, runtime in self._runtimes.items():
            if runtime.answering is not None:
                named.setdefault(runtime.answering.part, []).append(task)
        digest, precision, flags = self._hosted.entry.digest, self._hosted.device.precision, frozenset(cpu_flags())
        return [
            Part(
                tuple(tasks),
                tuple(self._runtimes[task] for task in tasks),
                Packages(folder, digest, part, precision, flags, version=version()),
            )
            for part, tasks in named.items()
        ]

    def _next_wanted(self, parts: list[Part], tried: set[tuple[str, Shape]]) -> tuple[Part, Shape] | None:
        """Wait until compiling for a shape is worth its while; gives nothing once the worker ends."""
        if not tried and (usual := self._usual(parts[0])) is not None:
            return parts[0], usual
        while True:
            for part in parts:
                answering = part.answering
                had = answering.shapes | {shape for name, shape in tried if name == answering.part}
                spent_s = answering.spent_s.copy()
                shape = max(spent_s.keys() - had, key=spent_s.__getitem__, default=None)
                if shape is not None and spent_s[shape] >= EARNED_S and len(had) < MAX_SHAPES:
                    return part, shape
            if self._closing.wait(LOOK_S):
                return None

    def _usual(self, first: Part) -> Shape | None:
        """The shape that is compiled for before any inputs came, where that is wanted."""
        shape = first.runtimes[0].usual_shape() if self._settings.compile == "now" else None
        return None if shape in first.answering.shapes else shape

    def _have(self, part: Part, shape: Shape) -> None:
        """Answer inputs of a shape with compiled code from now on, if it can be had."""
        path = part.packages.path(shape)
        try:
            with alone(path, self._wait) as is_there:
                if not is_there or launcher.is_wanted(path.parent):
                    self._tell("compiling")
                    self._compile(part, path, shape)
            self._swap_in(part, path, shape)
        except (CompileFailed, OSError, RuntimeError) as error:
            # For example a user without a home, a read-only file system, or a full one.
            self._give_up(error)

    def _wait(self) -> None:
        if self._closing.wait(LOOK_S):
            raise CompileFailed("The worker ends.")

    def _give_up(self, error: Exception) -> None:
        logger.warning("%s is served eagerly: %s", self._hosted.card.name, error)
        self._tell("eager: it could not be compiled")

    def _compile(self, part: Part, path: Path, shape: Shape) -> None:
        entry, started = self._hosted.entry, time.monotonic()
        models = [] if self._settings.models is None else ["--models-folder", str(self._settings.models)]
        words = [
            sys.executable, "-P", "-m", "workers.compile_child", entry.target, str(path), *models,
            "--task", part.tasks[0], "--precision", self._hosted.device.precision, "--shape", *map(str, shape),
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
        logger.info("compiled %s for %s in %.0f s", entry.target, _named(shape), time.monotonic() - started)

    def _end_child(self) -> None:
        """Let the child clear away what is half made; it is killed if it does not."""
        assert self._child is not None
        self._child.terminate()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _swap_in(self, part: Part, path: Path, shape: Shape) -> None:
        compiled = load_compiled(path)
        checks = chain.from_iterable(runtime.checks(compiled, shape) for runtime in part.runtimes)
        agreed: bool | None = True
        try:
            # Each check by itself, so that interactive work waits for one picture and no longer.
            while agreed:
                agreed = self._on_device(lambda: next(checks, None))
        except CompileFailed:
            raise
        except Exception as error:  # noqa: BLE001 - it would end every worker after this one with the same package
            logger.warning("the compiled %s cannot be run: %s", self._hosted.card.name, error)
            agreed = False
        if agreed is None:
            self._on_device(lambda: part.answering.use(compiled, shape))
            self._follow(self._quicker(part.tasks, shape))
            self._tell("compiled")
        else:
            logger.warning("the compiled %s answers otherwise and is not used", self._hosted.card.name)
            self._tell("eager: the compiled network answers otherwise")

    def _follow(self, steps: Iterator[object]) -> None:
        try:
            while self._on_device(lambda: next(steps, None)) is not None:
                pass
        except CompileFailed:
            raise
        except Exception as error:  # noqa: BLE001 - what has been swapped in answers all the same
            logger.warning("the compiled %s is not made more of: %s", self._hosted.card.name, error)

    def _on_device(self, chore: Callable[[], T]) -> T:
        """Have something done by the device thread: it alone computes, and nothing else is under way then."""
        done: Future[T] = Future()

        def do() -> None:
            try:
                done.set_result(chore())
            except Exception as error:
                done.set_exception(error)
                if is_fatal(error):
                    raise

        self._between(do)
        while not wait([done], LOOK_S).done:
            if self._closing.is_set():
                raise CompileFailed("The worker ends.")
        return done.result()


def _named(shape: Shape) -> str:
    return "x".join(map(str, shape))
