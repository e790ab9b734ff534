"""Convert filters to those of Chroma, and exclude texts that a search has found before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_sift.errors import InvalidFilter

Filter = Mapping[str, Any]
Arguments = Mapping[str, Any]
"""Keyword arguments of `Collection.query` or `Collection.get`."""

_MOST_CONDITIONS = 8
# Maximum length of a regular expression, without what `without_texts` puts around it.
_PATTERN_BYTES = 256 - len("(?s)^(?:)$")
# Minimum length of a text's pattern; a shorter one would exclude many other texts.
_LEAST_BYTES = 20
_SYNTAX = set("\\.+*?()|[]{}^$#&-~")


def conditions_of(filter: Filter | None, where_document: Filter | None) -> Arguments:
    """Return the arguments of Chroma's calls that restrict the rows.

    Raises:
        InvalidFilter: If one is no dictionary.
    """
    return {"where": where(filter), "where_document": _checked(where_document)}


def where(conditions: Filter | None) -> Filter | None:
    """Convert a filter to Chroma's form: several keys need an explicit "$and".

    Raises:
        InvalidFilter: If it is no dictionary.
    """
    conditions = _checked(conditions)
    if conditions is None or len(conditions) == 1:
        return conditions
    return {"$and": [{key: value} for key, value in conditions.items()]}


def _checked(conditions: Filter | None) -> Filter | None:
    """Return the conditions, or None if there are none."""
    if conditions is None:
        return None
    if not isinstance(conditions, dict):
        raise InvalidFilter(f"a Chroma filter must be a dict, got {type(conditions).__name__}")
    return conditions or None


def both(first: Filter, second: Filter) -> Filter:
    """Return both filters under one "$and"."""
    return {"$and": [where(first), where(second)]}


def without_texts(conditions: Arguments, texts: Sequence[str]) -> Arguments:
    """Add conditions that exclude texts, as many as the number of conditions allows.

    The quotas of Chroma Cloud are 8 conditions and 256 bytes for a regular expression. An
    expression names several texts, each by its beginning and end: another text with the same is
    excluded, too.

    Args:
        conditions: See `conditions_of`.
        texts: The texts, the most important first.

    Raises:
        InvalidFilter: If there are so many conditions already that no text can be excluded.
    """
    if not texts:
        return conditions
    room = _MOST_CONDITIONS - sum(map(_count, conditions.values()))
    if room < 1:
        raise InvalidFilter(
            f"the filter has {_MOST_CONDITIONS} conditions or more: no text can be excluded as well"
        )
    longest = room * _PATTERN_BYTES // len(texts) - 1
    names = (_name_of(text, max(_LEAST_BYTES, min(longest, _PATTERN_BYTES))) for text in texts)
    patterns = [f"(?s)^(?:{pattern})$" for pattern in _joined(names, room)]
    parts = [{"$not_regex": pattern} for pattern in patterns]
    if conditions["where_document"]:
        parts.append(conditions["where_document"])
    return {**conditions, "where_document": parts[0] if len(parts) == 1 else {"$and": parts}}


def _joined(names: Iterable[str], room: int) -> list[str]:
    """Join names of texts to at most `room` patterns of allowed length."""
    patterns: list[str] = []
    for name in names:
        if patterns and len(f"{patterns[-1]}|{name}".encode()) <= _PATTERN_BYTES:
            patterns[-1] += f"|{name}"
        elif len(patterns) < room:
            patterns.append(name)
        else:
            break
    return patterns


def _name_of(text: str, size: int) -> str:
    """Return a pattern of at most `size` bytes that the text matches, and few others."""
    whole = _escaped(text, size)
    if len(whole) == len(text):
        return "".join(whole)
    half = (size - len(".*")) // 2
    end = _escaped(text[::-1], half)[::-1]
    return "".join(_escaped(text, half)) + ".*" + "".join(end)


def _escaped(text: str, size: int) -> list[str]:
    """Return the first characters of a text as patterns of at most `size` bytes together."""
    patterns: list[str] = []
    for character in text[:size]:
        pattern = f"\\{character}" if character in _SYNTAX else character
        size -= len(pattern.encode())
        if size < 0:
            break
        patterns.append(pattern)
    return patterns


def _count(condition: Filter | None) -> int:
    """Return the number of single conditions in a filter."""
    return sum(
        sum(map(_count, value)) if key in {"$and", "$or"} else 1
        for key, value in (condition or {}).items()
    )
