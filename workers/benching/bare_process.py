"""The process that measures the model without a queue, from the outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from visionpipe.child import settings_environment
from visionpipe.errors import ModelLoadError
from visionpipe.settings import Settings
from visionpipe.tether import tethered
from workers.benching.measures import Bare, BatchTime, Question, ThreadRate


class BareProcess:
    """Asks it; measures nothing while it is not asked.

    Args:
        process: It, with its pipes.
        log: Where its standard error goes.
    """

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._log = log
        self._stdin: IO[str] = process.stdin
        self._stdout: IO[str] = process.stdout
        hello = self._read()
        self.cores = int(hello["cores"])
        self.decode_threads = int(hello["decode_threads"])

    def round(self) -> Bare | None:
        """Measure every stage for a moment; ``None`` for long work that takes too long."""
        found = self._ask("round")
        return None if found is None else Bare.model_validate(found)

    def batches(self) -> list[BatchTime]:
        """Time every size of micro-batch."""
        return [BatchTime.model_validate(one) for one in self._ask("batches")]

    def thread_rates(self) -> list[ThreadRate]:
        """Time every number of decode threads."""
        return [ThreadRate.model_validate(one) for one in self._ask("threads")]

    def _ask(self, word: str) -> Any:
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(f"{word}\n")
            self._stdin.flush()
        # Where it has ended, this says with which words.
        return self._read()

    def _read(self) -> Any:
        line = self._stdout.readline()
        found = json.loads(line) if line else {"error": self._last_words()}
        if isinstance(found, dict) and "error" in found:
            raise ModelLoadError(f"The model could not be measured without the queue: {found['error']}.")
        return found

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it ended without a word")


@contextlib.contextmanager
def bare_process(question: Question, settings: Settings) -> Iterator[BareProcess]:
    """Load the model in a process of its own while the context lasts.

    Raises:
        ModelLoadError: It cannot be loaded there.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VISIONPIPE_")}
    command = tethered([sys.executable, "-P", "-m", "workers.benching.bare"], signal.SIGTERM)
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed below, once nobody writes into it any more
    process = subprocess.Popen(
        command,
        env={**inherited, **settings_environment(settings)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Libraries greet there, between the lines of what is shown.
        stderr=log,
        text=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(question.model_dump_json() + "\n")
        process.stdin.flush()
        yield BareProcess(process, log)
    finally:
        process.terminate()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        log.close()
