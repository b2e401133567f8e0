"""Writes env.example from the settings: ``python deploy/env_example.py > deploy/env.example``."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visionpipe.settings import Settings


def lines() -> Iterator[str]:
    """One commented line per setting, with its description and default."""
    yield "# Every setting of VisionPipe with its default. For /etc/visionpipe/env, or `docker run --env-file`."
    for name, description in _descriptions():
        yield ""
        yield f"# {description}"
        yield f"#VISIONPIPE_{name.upper()}={_spell(Settings.model_fields[name].get_default(call_default_factory=True))}"


def _descriptions() -> Iterator[tuple[str, str]]:
    body = ast.parse(inspect.getsource(Settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(after, ast.Expr)
            assert isinstance(after.value, ast.Constant)
            yield statement.target.id, " ".join(str(after.value.value).replace("``", "").split())


def _spell(value: Any) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
