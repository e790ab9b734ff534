"""Make metadata that Chroma can store and filter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import count
from numbers import Integral, Real
from pathlib import PurePath
from typing import TypeAlias
from uuid import UUID

from langchain_sift.ttft.texts import well_formed

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | list[str] | list[int] | list[float] | list[bool]

# Chroma rejects keys that begin so, its reserved key, and larger integers.
_KEY_PREFIXES = ("#", "$")
_RESERVED_KEY = "chroma:document"
_INTEGERS = range(-(2**63), 2**63)


def storable(
    metadata: Mapping[str, object], on_rename: Callable[[str, str], None] = lambda *_: None
) -> dict[str, Value]:
    """Return the metadata in a form that Chroma can store and filter.

    An object becomes keys with a dot: {"author": {"name": "Ada"}} is {"author.name": "Ada"}; if
    there is another value of that name, it is "author.name_2". A list of texts, numbers or truth
    values stays, for the filter {"tags": {"$contains": "rice"}}; a list of whole and other numbers
    is one of floats, another mixture one of texts, and a list of objects its JSON. Dates, times,
    decimals, paths and UUIDs are their texts. Missing values, empty lists, NaN and other objects
    are left out, and keys that Chroma reserves.

    Args:
        metadata: The metadata.
        on_rename: Called with the usual and the new name of a value whose name is taken.
    """
    stored: dict[str, Value] = {}
    for key, value in _flat(metadata):
        name = well_formed(key)
        if not name or name.startswith(_KEY_PREFIXES) or name == _RESERVED_KEY:
            continue
        values = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        kept = _list(values) if isinstance(values, list | tuple) else _scalar(values)
        if kept is not None:
            free = name
            if name in stored:
                free = next(one for n in count(2) if (one := f"{name}_{n}") not in stored)
                on_rename(name, free)
            stored[free] = kept
    return stored


def label_of(fields: Mapping[str, object], key: str) -> str:
    """Return the value of a field as text, 0 included; "" if the field is missing or None."""
    value = fields.get(key)
    return "" if value is None else well_formed(str(value))


def _flat(fields: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    # Keys that the user joined with a dot come before those that this function joins.
    for key, value in sorted(fields.items(), key=lambda item: isinstance(item[1], Mapping)):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _scalar(value: object) -> Scalar | None:
    """Return a value that can be stored; None if there is none."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):  # also NumPy's
        return int(value) if int(value) in _INTEGERS else str(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal | PurePath | UUID | timedelta) else None


def _list(values: Sequence[object]) -> Value | None:
    """Return a list of values of one type; None for an empty one."""
    if any(isinstance(value, Mapping | list | tuple) for value in values):
        return well_formed(json.dumps(values, ensure_ascii=False, default=str))
    kept = [scalar for value in values if (scalar := _scalar(value)) is not None]
    kinds = {type(scalar) for scalar in kept}
    if kinds == {int, float}:
        return [float(scalar) for scalar in kept]
    if len(kinds) > 1:
        return [str(scalar) for scalar in kept]
    return kept or None  # type: ignore[return-value]
