"""Functions and modules stay short enough to be read."""

from __future__ import annotations

import ast

import pytest

from .test_imports import MODULES

MOST_FUNCTION_LINES, MOST_MODULE_LINES = 60, 300


@pytest.mark.parametrize("name", MODULES)
def test_a_module_and_its_functions_are_of_bearable_length(name):
    source = MODULES[name].read_text(encoding="utf-8")
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > MOST_FUNCTION_LINES} == {}
    assert len(source.splitlines()) <= MOST_MODULE_LINES
