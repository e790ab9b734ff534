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

from langchain_sift.errors import CorpusError
from langchain_sift.ttft.texts import well_formed

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | list[str] | list[int] | list[float] | list[bool]

# Chroma rejects keys that begin so, its reserved key, and larger integers.
_KEY_PREFIXES = ("#", "$")
_RESERVED_KEY = "chroma:document"
_INTEGERS = range(-(2**63), 2**63)
MOST_VALUES = 4096
"""Maximum number of values in the metadata of a row.

An embedded Chroma accepts a row with more than about 5,400, and then fails for every row: its
database takes 32,766 parameters."""
_MOST_FIELDS = MOST_VALUES - 16  # of a text: its chunks get a position and an origin as well


def storable(
    metadata: Mapping[str, object], on_note: Callable[[str], None] = lambda _: None
) -> dict[str, Value]:
    """Return the metadata in a form that Chroma can store and filter.

    An object becomes keys with a dot: {"author": {"name": "Ada"}} is {"author.name": "Ada"}; if
    there is another value of that name, it is "author.name_2". A list of texts, numbers or truth
    values stays, for the filter {"tags": {"$contains": "rice"}}; a list of whole and other numbers
    is one of floats, another mixture one of texts, and a list of objects its JSON. Dates, times,
    decimals, paths and UUIDs are their texts. Missing values, empty lists, NaN and other objects
    are left out, and keys that Chroma reserves. Lists with thousands of values are their JSON.

    Args:
        metadata: The metadata.
        on_note: Called with a message about each value that has another name or form than usual.

    Raises:
        CorpusError: If there are more values than a store takes, and they are in no lists.
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
                on_note(f"two fields are called {name!r}: one is stored as {free!r}")
            stored[free] = kept
    return _few(stored, on_note)


def number_of_values(metadata: Mapping[str, object]) -> int:
    """Return the number of values, with those in lists."""
    return sum(len(value) if isinstance(value, list) else 1 for value in metadata.values())


def _few(stored: dict[str, Value], on_note: Callable[[str], None]) -> dict[str, Value]:
    """Return metadata that a store takes: the longest lists are texts of JSON if need be."""
    number = number_of_values(stored)
    lists = {name: value for name, value in stored.items() if isinstance(value, list)}
    for name in sorted(lists, key=lambda name: -len(lists[name])):
        if number > _MOST_FIELDS:
            stored[name] = json.dumps(lists[name], ensure_ascii=False)
            number -= len(lists[name]) - 1
            on_note(f"the list {name!r} is too long for a filter: it is stored as text")
    if number > _MOST_FIELDS:
        raise CorpusError(f"a text has {number} fields, and a store takes {_MOST_FIELDS}")
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
