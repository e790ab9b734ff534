"""Give the cells of a table their types: numbers, truth values, dates and texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

Cell = str | bool | int | float | datetime | None

# Not 007 and +49: a code with a leading zero, or a telephone number, is a text.
_INTEGER = re.compile(r"-?(0|[1-9]\d*)")
_STORED_INTEGERS = range(-(2**63), 2**63)
# A float keeps 15 digits: a longer number, such as an id, stays a text.
_DECIMAL = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d{1,2})?")
_DECIMAL_COMMA = re.compile(r"-?(0|[1-9]\d{0,14})(,\d+)?")
_TRUTH = re.compile("true|false", re.IGNORECASE)
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)


def typed(cells: Sequence[str], *, decimal_comma: bool = False) -> list[Cell]:
    """Return the cells of a column as integers, floats, truth values or dates, if all of them are.

    Cells of space are missing values then. A column of anything else stays as it is.

    Args:
        cells: The cells.
        decimal_comma: True if 1,5 may be a number. Where a comma divides cells, 1,500 may be
            another one.
    """
    stripped = [cell.strip() for cell in cells]
    filled = [cell for cell in stripped if cell]
    if not filled:
        return list(cells)
    for form, convert in (*_TYPES, *([(_DECIMAL_COMMA, _decimal)] if decimal_comma else [])):
        if all(form.fullmatch(cell) for cell in filled):
            try:
                return [convert(cell) if cell else None for cell in stripped]
            except ValueError:  # such as the 30th of February, or an integer that no store has
                break
    return list(cells)


def _integer(cell: str) -> int:
    value = int(cell)
    if value not in _STORED_INTEGERS:
        raise ValueError(cell)
    return value


def _truth(cell: str) -> bool:
    return cell.lower() == "true"


def _decimal(cell: str) -> float:
    return float(cell.replace(",", "."))


_TYPES: Sequence[tuple[re.Pattern[str], Callable[[str], Cell]]] = (
    (_INTEGER, _integer),
    (_DECIMAL, float),
    (_TRUTH, _truth),
    (_DATE, datetime.fromisoformat),
)


def fields_of(cells: Mapping[str, object]) -> dict[str, object]:
    """Return the cells of a row as metadata.

    A date is its text in ISO 8601. Stores compare numbers only, so the seconds since 1970 (UTC
    without a time zone) are beside it under its name with "_timestamp".
    """
    fields: dict[str, object] = {}
    for name, cell in cells.items():
        if isinstance(cell, datetime):
            has_time = (cell.hour, cell.minute, cell.second, cell.tzinfo) != (0, 0, 0, None)
            fields[name] = cell.isoformat() if has_time else cell.date().isoformat()
            aware = cell if cell.tzinfo is not None else cell.replace(tzinfo=UTC)
            if f"{name}_timestamp" not in cells:
                fields[f"{name}_timestamp"] = int(aware.timestamp())
        elif cell is not None:
            fields[name] = cell
    return fields
