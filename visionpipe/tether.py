"""Run a command that gets a signal when the process that wanted it dies, even by ``kill -9``.

Used as a script, which becomes the command: ``python -I -S tether.py SIGNAL PARENT_PID PROGRAM ARGUMENT...``.
A ``preexec_fn`` would save 20 ms, but Python code between fork and exec may deadlock in a process with threads.
Only Linux can do this; elsewhere the command just runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tethered(command: Sequence[str], signum: int) -> list[str]:
    """Wrap a command so that it gets ``signum`` when the calling *thread* ends.

    The kernel ties the signal to the thread that starts the process: one that lives as long as the process should.
    """
    return [sys.executable, "-I", "-S", __file__, str(int(signum)), str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """Ask for the signal and become the command."""
    signum, parent, command = int(arguments[0]), int(arguments[1]), list(arguments[2:])
    if sys.platform == "linux":
        # Imported only here: the function above is also used on other systems.
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
        # The parent may have died before the kernel was told.
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the words are ours, and no shell reads them


if __name__ == "__main__":
    main(sys.argv[1:])
