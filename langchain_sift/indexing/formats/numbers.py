"""Read the numbers of a column, with a decimal point or a decimal comma."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WHOLE = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
# A float keeps 15 digits: a longer number, such as an id, stays a text. So does 007, a code.
_POINT = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d+)?([eE][+-]?\d{1,2})?", re.ASCII)
_COMMA = re.compile(r"-?(0|[1-9]\d{0,14}|[1-9]\d{0,2}(\.\d{3}){1,4})(,\d+)?", re.ASCII)
# 1E5 is a code unless another cell of the column has a fraction or a signed exponent.
_BARE_EXPONENT = re.compile(r"-?\d+[eE]\d+", re.ASCII)
_PROVES_NUMBERS = re.compile(r"\.|[eE][+-]")
# Three digits after a mark: 1.234 is one number with a point, and another with a comma.
_OPEN = re.compile(r"-?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)


def decimal_mark(cells: Sequence[str]) -> str:
    """Return the decimal mark, "." or ",", that the cells of a column prove; "" if they do not."""
    if all(_WHOLE.fullmatch(cell) or _OPEN.fullmatch(cell) for cell in cells):
        return ""
    forms = ((".", _POINT), (",", _COMMA))
    return next((mark for mark, form in forms if _have(form, cells)), "")


def numbers_of(cells: Sequence[str], mark: str | None) -> list[float] | None:
    """Return the numbers of a column; None if a cell is none.

    Args:
        cells: The cells, without space around them.
        mark: The decimal mark of cells that do not prove theirs. "" is for a comma, but not for a
            point that three digits follow, which may divide thousands. None means a point for all
            cells: a comma divides something else.
    """
    if mark is None:
        mark = "."
    else:
        mark = decimal_mark(cells) or mark or ("," if any("," in cell for cell in cells) else "")
    form = {".": _POINT, ",": _COMMA}.get(mark)
    if form is None or not _have(form, cells):
        return None
    if mark == ",":
        cells = [cell.replace(".", "").replace(",", ".") for cell in cells]
    return [float(cell) for cell in cells]


def _have(form: re.Pattern[str], cells: Sequence[str]) -> bool:
    """Return whether cells have the form of numbers, and are not codes such as 1E5."""
    if any(map(_BARE_EXPONENT.fullmatch, cells)) and not any(map(_PROVES_NUMBERS.search, cells)):
        return False
    return all(map(form.fullmatch, cells))


def open_number(cells: Sequence[str]) -> str:
    """Return a cell with thousands or three decimals; "" if a cell of the column is no number."""
    if not all(_WHOLE.fullmatch(cell) or _OPEN.fullmatch(cell) for cell in cells):
        return ""
    return next((cell for cell in cells if _OPEN.fullmatch(cell)), "")
