"""Find what llguidance accepts in a JSON schema although it cannot hold an answer to it."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from decimal import Decimal
from typing import Any

from langchain_sift.language_models.structured_output.schema_parts import (
    Part,
    objects_in,
    target_of,
)

# A decoder has a state for each remainder: this many take 0.1 s and 5 MB.
_MOST_REMAINDERS, _MOST_DIGITS = 10_000, 6
_SHOWN = 20  # characters of a number in an error
# With two of these, or one of the others, several schemas may apply to the same value.
_JOINED, _JOINING = {"multipleOf", "$ref", "anyOf", "oneOf"}, {"allOf", "patternProperties"}
_ROUNDS = 32


def costly_multiple(schema: Part) -> str:
    """Return the problem of a schema whose `multipleOf` would take seconds to compile."""
    parts = [*objects_in(schema)]
    numbers = {part["multipleOf"] for part in parts if _is_number(part.get("multipleOf"))}
    joined = any(len(_JOINED & part.keys()) > 1 or _JOINING & part.keys() for part in parts)
    remainders = 1 if joined else 0
    for number in numbers:
        # A power of ten adds no remainders, and one of two or five hardly any.
        digits = "".join(map(str, Decimal(str(number)).as_tuple().digits)).rstrip("0") or "1"
        if len(digits) < _MOST_DIGITS:
            own = _without_factors(int(digits), 2, 5)
            remainders = math.lcm(remainders, own) if joined else remainders + own
        if len(digits) >= _MOST_DIGITS or remainders > _MOST_REMAINDERS:
            return (
                f"multipleOf {str(number)[:_SHOWN]}: those of the schema have more than "
                f"{_MOST_REMAINDERS:,} remainders, which take too long to enforce"
            )
    return ""


def _without_factors(number: int, *factors: int) -> int:
    for factor in factors:
        while number % factor == 0:
            number //= factor
    return number


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def repeatable_keys(schema: Part) -> str:
    """Return the problem of a schema whose `minProperties` an answer meets by repeating a key."""
    for part in objects_in(schema):
        least: Any = part.get("minProperties")
        required = part.get("required")
        named = len({*map(str, required)}) if isinstance(required, list) else 0
        if _is_number(least) and least > named + 1:
            return (
                f"minProperties {str(least)[:_SHOWN]} with {named} required properties: answers "
                "could repeat one of the others"
            )
    return ""


def endless(schema: Part) -> str:
    """Return the problem of a schema in which a value must contain itself."""
    known: set[str] = set()  # references whose values can end
    for _ in range(_ROUNDS):
        before, seen = len(known), set(known)
        if _ends(schema, schema, known, seen):
            return ""
        if len(known) == before:
            return "no answer can follow it: a value that it requires contains itself"
    return ""


def _ends(part: Any, root: Part, known: set[str], seen: set[str]) -> bool:
    """Return whether a value of a schema can end.

    Args:
        part: The schema.
        root: The schema that contains it.
        known: References whose values can end; more are added.
        seen: References that were followed: each is followed once.
    """
    if not isinstance(part, dict) or "const" in part or "enum" in part:
        return True

    def ends(value: Any) -> bool:
        """Return whether a value of a schema in this one can end."""
        return _ends(value, root, known, seen)

    ref = part.get("$ref")
    if isinstance(ref, str) and ref not in known:
        if ref in seen:
            return False
        seen.add(ref)
        if not ends(target_of(root, ref)):
            return False
        known.add(ref)
    alternatives = [part[key] for key in ("anyOf", "oneOf") if isinstance(part.get(key), list)]
    alternatives += _further(part)
    if not all(any(map(ends, options)) for options in alternatives):
        return False
    return all(map(ends, part.get("allOf") or [])) and all(map(ends, _required(part)))


def _is_only(part: Part, kind: str) -> bool:
    """Return whether all values of a schema have one type."""
    return part.get("type") in (kind, [kind])


def _required(part: Part) -> list[Any]:
    """Return the schemas of the values that every value of an object or array contains."""
    if _is_only(part, "object"):
        return [_property(part, str(name)) for name in part.get("required") or []]
    least = part.get("minItems") or 0
    if not _is_only(part, "array") or not least:
        return []
    first = (part.get("prefixItems") or [])[: int(least)]
    return [*first, part.get("items")] if least > len(first) else first


def _property(part: Part, name: str) -> Any:
    """Return the schema of a property; None means any value."""
    named = part.get("properties") or {}
    if name in named:
        return named[name]
    for pattern, schema in (part.get("patternProperties") or {}).items():
        with suppress(re.error):
            if re.search(pattern, name):
                return schema
    return part.get("additionalProperties")


def _further(part: Part) -> list[list[Any]]:
    """Return the schemas of which an object needs one, if it needs more than its required ones."""
    least: Any = part.get("minProperties")
    required = part.get("required") or []
    if not _is_only(part, "object") or not _is_number(least) or least <= len(required):
        return []
    named = {**(part.get("properties") or {}), **(part.get("patternProperties") or {})}
    others = part.get("additionalProperties")
    return [[*named.values(), *([] if others is False else [others])]]
