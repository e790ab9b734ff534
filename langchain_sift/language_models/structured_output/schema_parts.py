"""Walk the parts of a JSON schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

Part = dict[str, Any]
"""A schema, or any other object in one."""

# Keywords whose values hold schemas by name, and as a value or list.
NAMED = ("properties", "patternProperties", "$defs", "definitions")
_VALUES = {"const", "default", "enum", "examples"}
NESTED = ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties")


def map_schemas(schema: Any, change: Callable[[Part], Part]) -> Any:
    """Change a schema and all schemas in it, but no other values, such as constants."""
    if isinstance(schema, list):
        return [map_schemas(part, change) for part in schema]
    if not isinstance(schema, dict):
        return schema
    mapped = dict(schema)
    for key in schema.keys() & {*NESTED}:
        mapped[key] = map_schemas(schema[key], change)
    for key in schema.keys() & {*NAMED}:
        if isinstance(schema[key], dict):
            mapped[key] = {name: map_schemas(part, change) for name, part in schema[key].items()}
    return change(mapped)


def objects_in(schema: Any) -> Iterator[Part]:
    """Yield every object in a schema that may be a schema, also one that only a `$ref` points to.

    The values of constants, defaults and examples are none, unless a `$ref` points into them.
    """
    refers = any(
        isinstance(ref := each.get("$ref"), str) and _VALUES & {*unquote(ref).split("/")}
        for each in _all_objects(schema, lambda _: False)
    )
    yield from _all_objects(schema, lambda key: key in _VALUES and not refers)


def _all_objects(value: Any, skips: Callable[[str], bool]) -> Iterator[Part]:
    """Yield every object in a value of JSON, without the values of keywords to skip."""
    left = [(value, False)]
    while left:
        value, are_names = left.pop()  # the keys of `properties` are names
        if isinstance(value, dict):
            yield value
            left += [
                (each, key in NAMED) for key, each in value.items() if are_names or not skips(key)
            ]
        elif isinstance(value, list):
            left += [(each, False) for each in value]


def target_of(schema: Any, ref: Any) -> Any:
    """Return the part of a schema that a `$ref` points to; None if it points elsewhere."""
    if not isinstance(ref, str) or not ref.startswith("#"):
        return None
    part = schema
    for name in unquote(ref).split("/")[1:]:
        key = name.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and key.isdecimal() and int(key) < len(part):
            part = part[int(key)]
        elif isinstance(part, dict) and key in part:
            part = part[key]
        else:
            return None
    return part


def only_objects(schema: Any) -> bool:
    """Return False if a schema says that some of its values are no objects."""
    left, seen = [schema], set[str]()
    while left:
        part = left.pop()
        if not isinstance(part, dict):
            continue
        kind = part.get("type", "object")
        values = [*(part.get("enum") or []), part.get("const", {})]
        if kind not in ("object", ["object"]) or not all(isinstance(v, dict) for v in values):
            return False
        left += [*(part.get("anyOf") or []), *(part.get("oneOf") or [])]
        ref = part.get("$ref")
        if isinstance(ref, str) and ref not in seen:
            seen.add(ref)
            left.append(target_of(schema, ref))
    return True


def contains_itself(schema: Any) -> bool:
    """Return True if a `$ref` of a schema leads back to itself."""
    left = {ref: _refs_in(target_of(schema, ref)) for ref in _refs_in(schema)}
    while done := [ref for ref, further in left.items() if not further & left.keys()]:
        for ref in done:
            del left[ref]
    return bool(left)


def _refs_in(part: Any) -> set[str]:
    refs = (each.get("$ref") for each in objects_in(part))
    return {ref for ref in refs if isinstance(ref, str)}
