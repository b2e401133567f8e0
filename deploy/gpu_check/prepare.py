"""Gathers what ``check.py`` needs on a machine without network: ``python deploy/gpu_check/prepare.py``.

The wheels of the locked packages that such a machine does not bring, a Redis server among them, go into
``build/gpu-check/wheels``, which git ignores. The checkout with that folder is all that must travel.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WHEELS = ROOT / "build" / "gpu-check" / "wheels"
MAX_BYTES = 36 * 2**20
"""More would be slow to carry beside the checkout; what is too large must be there already."""
MANYLINUX = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + ["manylinux2014_x86_64", "linux_x86_64"]
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)\s*(?:;\s*(?P<marker>.*?))?\s*\\?$")


def main() -> None:
    """Download, and say how much it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", default="3.12", help="version of Python there (%(default)s)")
    parser.add_argument("--there", type=Path, default=HERE / "there.txt", help="packages that need not travel")
    parser.add_argument("--to", type=Path, default=WHEELS)
    wanted = parser.parse_args()
    lock = (ROOT / "deploy" / "requirements.lock").read_text(encoding="utf-8")
    lines = list(needed(lock, patterns(wanted.there.read_text(encoding="utf-8")), wanted.python))
    shutil.rmtree(wanted.to, ignore_errors=True)
    wanted.to.mkdir(parents=True)
    download(lines, wanted.python, wanted.to)
    wheels = sorted(wanted.to.glob("*.whl"))
    total = sum(wheel.stat().st_size for wheel in wheels)
    sys.stdout.write(f"{len(wheels)} wheels, {total / 2**20:.1f} MiB, in {wanted.to}\n")
    if total > MAX_BYTES:
        largest = sorted(wheels, key=lambda wheel: -wheel.stat().st_size)[:5]
        named = ", ".join(f"{wheel.name} {wheel.stat().st_size / 2**20:.1f} MiB" for wheel in largest)
        sys.exit(f"That is more than {MAX_BYTES / 2**20:.0f} MiB. The largest: {named}.")


def patterns(text: str) -> list[str]:
    """Read names of packages, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def needed(lock: str, there: list[str], python: str) -> Iterator[str]:
    """Give the lines of a lock file, hashes and all, of the packages that must travel.

    Args:
        lock: As uv writes it.
        there: Names of packages that need not, with wildcards.
        python: Version of Python on the other machine, which is x86-64 Linux.
    """
    machine = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    machine |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    machine |= {"implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}
    for block in re.split(r"\n(?=\S)", lock):
        found = _PINNED.match(block.partition("\n")[0])
        if found is None or any(fnmatch(canonicalize_name(found["name"]), pattern) for pattern in there):
            continue
        if found["marker"] is None or Marker(found["marker"]).evaluate(machine):
            hashes = re.findall(r"--hash=\S+", block)
            yield f"{found['name']}=={found['version']} {' '.join(hashes)}"


def download(lines: list[str], python: str, to: Path) -> None:
    """Fetch wheels that fit the other machine, and check their hashes."""
    platforms = [word for platform in MANYLINUX for word in ("--platform", platform)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(lines))
        listed.flush()
        subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                "--require-hashes", "--python-version", python, "--implementation", "cp", *platforms,
                "--dest", str(to), "--requirement", listed.name,
            ],
            check=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
