"""Read dates in the forms of spreadsheets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

_ISO = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_TIME = r"(?:,?[ T](?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d))?(?: ?(?P<half>[AP]M))?)?"


def _form(date: str) -> re.Pattern[str]:
    numbers = {
        "d": r"(?P<day>\d{1,2})",
        "m": r"(?P<month>\d{1,2})",
        "y": r"(?P<year>\d{4})",
    }
    parts = "".join(numbers.get(letter, re.escape(letter)) for letter in date)
    return re.compile(parts + _TIME, re.ASCII | re.IGNORECASE)


def _reader(form: re.Pattern[str]) -> Callable[[str], datetime]:
    def read(cell: str) -> datetime:
        """Return the date of a cell of this form."""
        match = form.fullmatch(cell)
        if match is None:
            raise ValueError(cell)
        names = ("year", "month", "day", "hour", "minute", "second")
        year, month, day, hour, minute, second = (int(match[name] or 0) for name in names)
        if half := match["half"]:
            if not 1 <= hour <= 12:
                raise ValueError(cell)
            hour = hour % 12 + 12 * (half.upper() == "PM")
        return datetime(year, month, day, hour, minute, second)

    return read


def _iso(cell: str) -> datetime:
    if not _ISO.fullmatch(cell):
        raise ValueError(cell)
    return datetime.fromisoformat(cell)


# A date has one of the orders of each line.
_CERTAIN = (_iso, *(_reader(_form(form)) for form in ("y/m/d", "d.m.y")))
_FORMS = (
    *((read,) for read in _CERTAIN),
    *((_reader(_form(f"d{by}m{by}y")), _reader(_form(f"m{by}d{by}y"))) for by in "/-"),
)


def dates_of(cells: Sequence[str]) -> list[list[datetime]]:
    """Return what the cells of a column mean as dates of one form.

    The forms are ISO 8601, 2024/12/31, 31.12.2024, and day, month and year in either order with /
    or -; a time of day may follow.

    Args:
        cells: The cells, without space around them; at least one.

    Returns:
        One list of dates; two if both orders of day and month are possible, and differ; none if a
        cell is no date.
    """
    for readings in _FORMS:
        found: list[list[datetime]] = []
        for read in readings:
            try:
                dates = [read(cell) for cell in cells]
            except ValueError:  # another form, or such as the 30th of February
                continue
            if dates not in found:
                found.append(dates)
        if found:
            return found
    return []


def certain_date(text: str) -> datetime | None:
    """Return the date of a text in a form with one order, such as ISO 8601; None if it has none."""
    for read in _CERTAIN:
        try:
            return read(text)
        except ValueError:
            pass
    return None


def timestamp(date: datetime) -> int:
    """Return the seconds since 1970, of a date without a time zone in UTC."""
    return int((date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp())
