"""``python -m workers.compile_child``: compiles one model beside a worker that serves it, out of its way."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

import torch

from models.catalog import Catalog
from models.compiling import compile_network
from models.errors import ModelError
from workers.hosted import HostedModel
from workers.runtime import Runtime

NICENESS = 15


def main() -> None:
    """Compile, and say in one line why not if it fails."""
    parser = argparse.ArgumentParser(prog="python -m workers.compile_child")
    parser.add_argument("target")
    parser.add_argument("path", type=Path)
    parser.add_argument("--models-folder", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--shape", type=int, nargs=3, required=True)
    wanted = parser.parse_args()
    os.nice(NICENESS)
    # So that what is half made is cleared away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    hosted = HostedModel(Catalog(wanted.models_folder).find(wanted.target), device="cpu")
    hosted.set_precision(wanted.precision)
    runtime: Runtime = importlib.import_module(f"workers.{wanted.task}").RUNTIME(hosted)
    answering = runtime.answering
    assert answering is not None
    try:
        compile_network(answering.eager, tuple(wanted.shape), wanted.path, dtype=answering.dtype)
    except ModelError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
