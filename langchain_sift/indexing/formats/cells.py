"""Give the cells of a table their types: numbers, truth values, dates and texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from langchain_sift.indexing.formats.dates import certain_date, dates_of, timestamp
from langchain_sift.indexing.formats.numbers import numbers_of, open_number

Cell = str | bool | int | float | datetime | None

# Not 007 and +49: a code with a leading zero, or a telephone number, is a text.
_INTEGER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
_STORED_INTEGERS = range(-(2**63), 2**63)
_TRUTH = re.compile("true|false", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Column:
    """The cells of a column."""

    cells: Sequence[Cell]

    doubt: str = ""
    """Reason that texts are neither numbers nor dates, although they may be; "" without one."""


def typed(cells: Sequence[str], mark: str | None = None) -> Column:
    """Return the cells of a column as integers, floats, truth values or dates, if all of them are.

    Cells of space are missing values then. A column of anything else stays as it is.

    Args:
        cells: The cells.
        mark: The decimal mark of columns that do not prove theirs, as in `numbers_of`.
    """
    stripped = [cell.strip() for cell in cells]
    filled = [cell for cell in stripped if cell]
    values = _values(filled, mark)
    if values is None:
        return Column(cells, _doubt(filled, mark))
    each = iter(values)
    return Column([next(each) if cell else None for cell in stripped])


def _values(filled: Sequence[str], mark: str | None) -> Sequence[Cell] | None:
    """Return the values of cells; None if they are texts."""
    if not filled:
        return None
    if all(map(_INTEGER.fullmatch, filled)):
        # Chroma has no larger ones, and Python parses no more than 4300 digits.
        whole = [int(cell) if len(cell) <= 20 else 2**63 for cell in filled]
        return whole if all(number in _STORED_INTEGERS for number in whole) else None
    if all(map(_TRUTH.fullmatch, filled)):
        return [cell.lower() == "true" for cell in filled]
    numbers = numbers_of(filled, mark)
    if numbers is not None:
        return numbers
    dates = dates_of(filled)
    return dates[0] if len(dates) == 1 else None


def _doubt(filled: Sequence[str], mark: str | None) -> str:
    if not filled:
        return ""
    if len(dates_of(filled)) > 1:
        return f"{filled[0]} may begin with a day or a month: write dates as year-month-day"
    number = open_number(filled) if mark == "" else ""
    return number and (
        f"the mark of {number} may divide thousands or decimals: leave out marks of thousands"
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
            if _timestamp_of(name) not in cells:
                fields[_timestamp_of(name)] = timestamp(cell)
        elif cell is not None:
            fields[name] = cell
    return fields


def with_timestamps(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of an object, with seconds since 1970 beside texts that are dates.

    As in `fields_of`, but no text is changed. Dates whose order of day and month is open are texts.
    """
    made: dict[str, object] = {}
    for name, value in fields.items():
        made[name] = with_timestamps(value) if isinstance(value, Mapping) else value
        date = certain_date(value) if isinstance(value, str) else None
        if date is not None and _timestamp_of(name) not in fields:
            made[_timestamp_of(name)] = timestamp(date)
    return made


def _timestamp_of(name: str) -> str:
    return f"{name}_timestamp"
