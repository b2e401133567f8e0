"""``python -m visionpipe``."""

from __future__ import annotations

import sys
from pathlib import Path

# `python -m` puts the working directory first, where a folder called `models` or a file called `typer.py` would be
# taken for ours. Only the folder that holds this very package may stay.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from visionpipe.cli import main

if __name__ == "__main__":
    main()
