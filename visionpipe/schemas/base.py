"""What all our schemas have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        ser_json_inf_nan="null",
    )
