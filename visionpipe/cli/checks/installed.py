"""Python and the packages around us."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from visionpipe.cli.checks.base import Check
from visionpipe.cli.guard import check_names
from visionpipe.errors import NameClashError


def python() -> Check:
    """Which Python runs."""
    return Check("python", "ok", f"{platform.python_version()} in {sys.prefix}")


def packages() -> Check:
    """Whether what we need is installed, in versions that work."""
    from packaging.requirements import Requirement

    found, wrong = [f"visionpipe {version('visionpipe')}"], []
    for need in map(Requirement, requires("visionpipe") or []):
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            here = version(need.name)
        except PackageNotFoundError:
            here = "missing"
        found.append(f"{need.name} {here}")
        if here == "missing" or not need.specifier.contains(here, prereleases=True):
            wrong.append(f"'{need.name}{need.specifier}'")
    if wrong:
        return Check("packages", "fail", ", ".join(found), f"pip install {' '.join(wrong)}")
    return Check("packages", "ok", ", ".join(found))


def names() -> Check:
    """Whether ``workers`` and ``models`` are ours."""
    try:
        check_names()
    except NameClashError as error:
        path = ", ".join(sys.path)
        return Check("package names", "fail", f"{error.details['found']} hides ours", f"{error.message} Path: {path}")
    return Check("package names", "ok", "workers and models are ours")
