"""Refuse to start when ``workers`` or ``models`` is somebody else's package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from visionpipe.errors import NameClashError

OUR_FOLDER = Path(__file__).resolve().parents[2]
"""Where our packages lie side by side."""


def check_names(names: tuple[str, ...] = ("workers", "models")) -> None:
    """Find our sibling packages without importing them.

    Raises:
        NameClashError: A name resolves to a package outside our folder.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        found = [Path(place).resolve() for place in spec.submodule_search_locations or []]
        found = found or [Path(spec.origin or "?").resolve()]
        if OUR_FOLDER / name not in found:
            raise NameClashError(
                f"VisionPipe's package {name!r} was expected in {OUR_FOLDER}, but Python finds {found[0]} first. "
                f"Rename that one, or take its folder off PYTHONPATH; `visionpipe doctor` shows the search path.",
                name=name,
                found=str(found[0]),
            )
