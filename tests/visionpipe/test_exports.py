"""What ``import visionpipe`` offers."""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

import pytest

import visionpipe
import visionpipe.cli
import visionpipe.queue
import visionpipe.runs
import visionpipe.schemas.requests
import visionpipe.schemas.results
from visionpipe import errors
from visionpipe.tasks import TASKS

PACKAGES = [
    visionpipe,
    visionpipe.cli,
    visionpipe.queue,
    visionpipe.runs,
    visionpipe.schemas.requests,
    visionpipe.schemas.results,
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_all_names_exactly_what_is_imported(package: ModuleType):
    tree = ast.parse(Path(str(package.__file__)).read_text())
    imported = [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]
    assert sorted(package.__all__) == sorted(imported)
    assert list(package.__all__) == sorted(
        package.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_init_files_hold_imports_and_all_only(package: ModuleType):
    tree = ast.parse(Path(str(package.__file__)).read_text())
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    assert all(isinstance(node, ast.ImportFrom | ast.Assign) for node in rest)


def test_every_error_every_tasks_options_and_every_result_are_exported():
    wanted = {cls.__name__ for cls in errors._tree(errors.VisionPipeError)}
    for spec in TASKS.values():
        wanted |= {spec.options.__name__, spec.result.__name__}
    assert wanted <= set(visionpipe.__all__)
