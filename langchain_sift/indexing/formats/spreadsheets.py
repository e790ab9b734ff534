"""Read the rows of spreadsheets."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from itertools import zip_longest
from pathlib import Path

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.formats.encodings import read_archive
from langchain_sift.indexing.formats.records import Reading, Record
from langchain_sift.indexing.formats.tables import Table

Row = tuple[object, ...]

_FORMULA = re.compile(rb"<(?:\w+:)?f[ >/]")
_COMPUTED = re.compile(rb"(?:</(?:\w+:)?f>|<(?:\w+:)?f [^>]*/>)\s*<(?:\w+:)?v[^>]*>[^<]")
"""A formula, and one with a value, in the XML of a sheet."""


def read_spreadsheet(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the rows of each sheet of an `.xlsx` file, as those of a CSV file.

    The first row with a cell names the columns. In a book that no program has computed, a
    formula stands for its value. The number of a row counts through all sheets.
    """
    require("files", "openpyxl")
    content = read_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of colours and forms that are left out
            sheets = _sheets(content, data_only=True)
            if _is_uncomputed(content):
                formulas = _sheets(content, data_only=False)
                sheets = {title: _joined(sheets[title], formulas[title]) for title in sheets}
    except Exception as error:  # a damaged archive breaks its reader in many ways
        raise CorpusError(
            f"{path}: not a spreadsheet that can be read ({type(error).__name__}): save it again"
        ) from error
    number = 0
    for title, rows in sheets.items():
        for record in _records(path, rows, reading):
            number += 1
            yield Record(record.text, {"sheet": title, **record.fields}, "row", number)


def _sheets(content: bytes, *, data_only: bool) -> dict[str, list[Row]]:
    """Return the rows of each sheet. Each ends with its last cell, wherever the sheet ends."""
    from openpyxl import load_workbook  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    book = load_workbook(io.BytesIO(content), read_only=True, data_only=data_only)
    for sheet in book.worksheets:
        sheet.reset_dimensions()
    return {sheet.title: [*sheet.iter_rows(values_only=True)] for sheet in book.worksheets}


def _is_uncomputed(content: bytes) -> bool:
    """Return True if the book has formulas, and no program has stored the value of any."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if re.search(r"sheet[^/]*\.xml$", name)]
        sheets = [archive.read(name) for name in names]
    has_formulas = any(_FORMULA.search(sheet) for sheet in sheets)
    return has_formulas and not any(_COMPUTED.search(sheet) for sheet in sheets)


def _joined(values: Sequence[Row], formulas: Sequence[Row]) -> list[Row]:
    """Return the values of cells, and the formula of a cell that has no value."""
    return [
        tuple(
            _text_of(formula) if value is None else value
            for value, formula in zip_longest(of_values, of_formulas)
        )
        for of_values, of_formulas in zip_longest(values, formulas, fillvalue=())
    ]


def _text_of(formula: object) -> str | None:
    """Return a formula as text; None for a table of data, which has none."""
    text = formula if isinstance(formula, str) else getattr(formula, "text", None)
    return text if isinstance(text, str) else None


def _records(path: Path, rows: Sequence[Sequence[object]], reading: Reading) -> Iterator[Record]:
    filled = [[_cell(value) for value in row] for row in rows if any(v is not None for v in row)]
    if not filled:
        return
    header, *body = filled
    width = max(n for row in filled for n, cell in enumerate(row, start=1) if cell is not None)
    if not body:
        yield Record("\n".join(str(cell) for cell in header if cell is not None))
        return
    cells = [*header, *[None] * width][:width]
    names = [f"column {n}" if cell is None else str(cell) for n, cell in enumerate(cells, start=1)]
    yield from Table.of(path, names, reading.text_keys).records(body)


def _cell(value: object) -> object:
    """Return the value of a cell, with a date as midnight and a time as text."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time())
    return str(value) if isinstance(value, time) else value
