"""Who may import whom, and what `import visionpipe` may cost."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("visionpipe", "workers", "models")
FORBIDDEN = {"visionpipe": {"workers", "models"}, "models": {"visionpipe", "workers"}, "workers": set()}
HEAVY = ("torch", "numpy", "cv2", "celery", "kombu", "redis", "PIL", "fastapi", "starlette", "httpx", "fsspec")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(path: Path) -> Iterator[str]:
    """Names of all imported modules, also inside functions, but not those for type checkers only."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else str(node.module)
        else:
            pending.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str):
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if module.partition(".")[0] == package
        for name in imports(path)
        if name.partition(".")[0] in FORBIDDEN[package]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle():
    edges = {module: {name for name in imports(path) if name in MODULES} for module, path in MODULES.items()}
    # What imports nothing that is left cannot be in a circle; take such modules away until none is left to take.
    while leaves := [module for module, names in edges.items() if not names & edges.keys() - {module}]:
        for leaf in leaves:
            del edges[leaf]
    assert {module: sorted(names & edges.keys()) for module, names in edges.items()} == {}


def test_importing_visionpipe_is_light():
    source = f"import sys, visionpipe; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_visionpipe_takes_little_longer_than_what_it_cannot_do_without(tmp_path: Path):
    # Bytecode is there after the first run, as it is for anybody who installed a wheel; and time of this process alone
    # is counted, because others may keep the machine busy.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)

    def cost_s(names: str) -> float:
        source = f"import time; start = time.process_time(); import {names}; print(time.process_time() - start)"
        return float(subprocess.check_output([sys.executable, "-P", "-c", source], timeout=60, env=environment))

    needed, ours = "asyncio, json, pydantic", "visionpipe"
    pairs = [(cost_s(needed), cost_s(ours)) for _ in range(6)]
    least_s, best_s = (min(costs) for costs in zip(*pairs, strict=True))
    assert best_s < 3.5 * least_s, pairs
