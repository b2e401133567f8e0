"""What all our schemas have in common."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from textwrap import dedent
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, StringConstraints
from pydantic_core import CoreSchema

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
"""Ids go into Redis keys and JSON without escaping."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
"""A model's name."""

ModelTarget = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}(@[0-9a-f]{12})?$")]
"""A model's name, or ``name@digest`` to pin one version of it."""

JobId = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
"""A job's id."""

Score = Annotated[float, Field(ge=0, le=1)]
"""A probability."""

ClassRef = Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1, max_length=256)]
"""A class of the model: its index, or its label."""


class Schema(BaseModel):
    """Base of everything that crosses the wire.

    Unknown fields, NaN and infinity are refused, so that any JSON reader can read what we write; values are immutable;
    the docstring under each field goes into the JSON Schema.
    """

    # Building validators and reading docstrings at import would cost a third of the 0.3 s that the import may take.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        defer_build=True,
        allow_inf_nan=False,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="null",
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        reference = handler(core_schema)
        properties = handler.resolve_ref_schema(reference).get("properties", {})
        for name, text in field_docs(cls).items():
            properties.get(name, {}).setdefault("description", text)
        return reference


@cache
def field_docs(cls: type[BaseModel]) -> dict[str, str]:
    """Read the docstring below each field of a model and of its bases, from their source."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel and not base.__pydantic_generic_metadata__["origin"]:
            docs.update(_attribute_docs(base))
    return docs


def _attribute_docs(cls: type) -> dict[str, str]:
    body = ast.parse(dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(doc.value.value)
        for field, doc in pairwise(body.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }
