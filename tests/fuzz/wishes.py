"""Requests that fit the schemas, and requests that nearly do, drawn from the schemas themselves."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.service import MODEL, PIXELS
from visionpipe.tasks import TASKS

Document = dict[str, Any]

DEADLINE_S = 1.0
"""Long work that was drawn by chance ends here."""

IMAGES: tuple[Document, ...] = (
    {"kind": "inline", "data": base64.b64encode(PIXELS).decode()},
    {"kind": "inline", "data": base64.b64encode(PIXELS[: len(PIXELS) // 2]).decode(), "name": "half"},
    {"kind": "inline", "data": base64.b64encode(b"no picture").decode(), "name": "\u2028\x00<b>"},
    {"kind": "blob", "key": "blob:nobody:0", "size_bytes": 10},
    {"kind": "blob", "key": "upload:..:..", "size_bytes": 2**40},
    {"kind": "media", "root": "scans", "path": "../../etc/passwd", "size_bytes": 1, "mtime_ns": 0},
    {"kind": "media", "root": "scans", "path": "a/" * 2000 + "x", "size_bytes": 1, "mtime_ns": 0},
    {"kind": "url", "url": "http://127.0.0.1:6379/"},
    {"kind": "url", "url": "http://user:secret@[::ffff:7f00:1]/"},
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@cache
def valid() -> SearchStrategy[Document]:
    """Requests that fit: of every task, with options drawn field by field."""
    return st.one_of(*(_request(task) for task in TASKS))


@cache
def near_valid() -> SearchStrategy[str]:
    """The same with one to three places spoilt, as JSON."""
    fault = st.tuples(st.integers(0, 10**6), JUNK, st.integers(0, 3))
    return st.builds(_spoil, valid(), st.lists(fault, min_size=1, max_size=3))


def _request(task: str) -> SearchStrategy[Document]:
    schema = TASKS[task].request.model_json_schema()
    images = st.just([IMAGES[0]]) | st.lists(st.sampled_from(IMAGES), min_size=1, max_size=3)
    options = _drawn(schema["properties"]["options"], schema["$defs"])
    return st.fixed_dictionaries(
        {
            "task": st.just(task),
            "model": st.just(MODEL),
            "images": st.just([]) if task == "feature_visualization" else images,
            "deadline_s": st.just(DEADLINE_S),
            "options": options,
        }
    )


def _drawn(schema: Document, defs: Document) -> SearchStrategy[Any]:
    """Values that fit one JSON Schema of the kind that pydantic writes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in ("BlobImage", "MediaImage", "UrlImage", "InlineImage"):
            return st.sampled_from(IMAGES)
        return st.deferred(lambda: _drawn(defs[name], defs))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return st.one_of(*(_drawn(one, defs) for one in schema[several]))
    return _KINDS[schema["type"]](schema, defs) if "type" in schema else JUNK


def _object(schema: Document, defs: Document) -> SearchStrategy[Any]:
    fields = {name: _drawn(field, defs) for name, field in schema.get("properties", {}).items()}
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: fields[name] for name in required},
        optional={name: field for name, field in fields.items() if name not in required},
    )


def _array(schema: Document, defs: Document) -> SearchStrategy[Any]:
    if "prefixItems" in schema:
        return st.tuples(*(_drawn(item, defs) for item in schema["prefixItems"])).map(list)
    least = schema.get("minItems", 0)
    items = _drawn(schema.get("items", {}), defs)
    return st.lists(items, min_size=least, max_size=min(schema.get("maxItems", least + 3), least + 3))


def _integer(schema: Document, _: Document) -> SearchStrategy[Any]:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -10))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 10**9) - 1)
    return st.integers(least, min(least + 12, most)) | st.integers(least, most)


def _number(schema: Document, _: Document) -> SearchStrategy[Any]:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1e6))
    most = schema.get("maximum", schema.get("exclusiveMaximum", 1e6))
    strict = {"exclude_min": "exclusiveMinimum" in schema, "exclude_max": "exclusiveMaximum" in schema}
    return st.floats(least, most, allow_subnormal=False, **strict)


def _string(schema: Document, _: Document) -> SearchStrategy[Any]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    least = schema.get("minLength", 0)
    return st.text(min_size=least, max_size=min(schema.get("maxLength", 30), least + 20))


_KINDS = {
    "object": _object,
    "array": _array,
    "integer": _integer,
    "number": _number,
    "string": _string,
    "boolean": lambda *_: st.booleans(),
    "null": lambda *_: st.none(),
}


def _places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in _places(value, (*path, key)))]


def _spoil(document: Document, faults: list[tuple[int, Any, int]]) -> str:
    """Put junk in the place of a value, take it out, double it, or add a field that there is not."""
    spoilt: Any = json.loads(json.dumps(document))
    for where, junk, how in faults:
        places = [place for place in _places(spoilt) if place]
        if not places:
            break
        *way, last = places[where % len(places)]
        holder = spoilt
        for key in way:
            holder = holder[key]
        if how == 0:
            holder[last] = junk
        elif how == 1:
            del holder[last]
        elif how == 2:
            holder[last] = [holder[last]] * 2
        elif isinstance(holder, dict):
            holder[f"{last}_"] = junk
        else:
            holder.append(junk)
    return json.dumps(spoilt)
