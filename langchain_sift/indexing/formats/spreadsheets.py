"""Read the rows of spreadsheets."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.formats.encodings import read_archive
from langchain_sift.indexing.formats.records import Reading, Record
from langchain_sift.indexing.formats.tables import Table


def read_spreadsheet(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the rows of each sheet of an `.xlsx` file, as those of a CSV file.

    The first row with a cell names the columns. The number of a row counts through all sheets.
    """
    require("files", "openpyxl")
    from openpyxl import load_workbook  # type: ignore[import-untyped] # noqa: PLC0415 - an extra

    content = read_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of colours and forms that are left out
            book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            sheets = {one.title: _filled_rows(one) for one in book.worksheets}
    except Exception as error:  # a damaged archive breaks its reader in many ways
        raise CorpusError(
            f"{path}: not a spreadsheet that can be read ({type(error).__name__}): save it again"
        ) from error
    number = 0
    for title, rows in sheets.items():
        for record in _records(path, rows, reading):
            number += 1
            yield Record(record.text, {"sheet": title, **record.fields}, "row", number)


def _filled_rows(sheet: Any) -> list[tuple[object, ...]]:
    """Return the rows with a cell. Each ends with its last cell, wherever the sheet ends."""
    sheet.reset_dimensions()
    rows = sheet.iter_rows(values_only=True)
    return [row for row in rows if any(cell is not None for cell in row)]


def _records(path: Path, rows: Sequence[Sequence[object]], reading: Reading) -> Iterator[Record]:
    filled = [[_cell(value) for value in row] for row in rows]
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
