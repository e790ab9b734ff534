"""Read the rows of CSV files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Literal

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.cells import fields_of, typed
from langchain_sift.indexing.formats.encodings import read_text
from langchain_sift.indexing.formats.numbers import decimal_mark
from langchain_sift.indexing.formats.records import TEXT_KEYS, Reading, Record

# A cell may be a document: the csv module's default limit is 128 KiB.
_LONGEST_CELL = 2**31 - 1
CSV = (".csv", ".csv.gz")
TSV = (".tsv", ".tsv.gz")

_DELIMITERS = ";\t|,"
# Delimiters of files that may have decimal commas, and the mark of columns that prove none.
_BESIDE_COMMAS = {";": "", "\t": "."}
_ROWS_TO_GUESS_FROM = 50
_SEPARATOR_LINE = re.compile(r"sep=([^\r\n]?)[ \t]*(?:\r\n?|\n)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a table."""

    names: tuple[str, ...]
    """The names of the columns, each once; an empty one is of a column to leave out."""

    columns: tuple[int, ...]
    """The columns that hold the text, in their order; empty means all."""

    @classmethod
    def of(cls, path: Path, names: Sequence[str], text_keys: Sequence[str]) -> Table:
        """Return the columns of a header; names are compared without case.

        Of a name that several columns have, the second is "name_2", and so on.
        """
        distinct = _distinct(names)
        folded = [name.casefold() for name in names]
        if not text_keys:
            first = next((key for key in TEXT_KEYS if key in folded), None)
            return cls(distinct, tuple(n for n, name in enumerate(folded) if name == first))
        lacking = [key for key in text_keys if key.casefold() not in folded]
        if lacking:
            raise CorpusError(
                f"{path}, line 1: there is no column {lacking[0]!r}: the first row names "
                f"{', '.join(map(repr, names))}"
            )
        return cls(distinct, tuple(folded.index(key.casefold()) for key in text_keys))

    def records(self, rows: Sequence[Sequence[object]]) -> Iterator[Record]:
        """Yield a record for each row of cells."""
        for number, row in enumerate(rows, start=1):
            if self.columns:
                parts = [str(row[n]) for n in self.columns if n < len(row) and row[n] is not None]
                cells = enumerate(zip(self.names, row, strict=False))
                others = {name: cell for n, (name, cell) in cells if n not in self.columns}
                yield Record("\n".join(parts), fields_of(others), "row", number)
            elif any(str(cell).strip() for cell in row if cell is not None):
                pairs = zip(self.names, row, strict=False)
                text = "\n".join(f"{name}: {'' if c is None else c}" for name, c in pairs if name)
                yield Record(text, {}, "row", number)


def read_csv(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the rows of a CSV file: of its text columns, else of all columns."""
    text = read_text(path, reading.encoding)
    delimiter, _ = _delimited(path, text)
    (_, header), *rows = _rows(path, text) or [(0, [])]
    names = [
        name.strip() or (f"column {n + 1}" if any(_cell(row, n) for _, row in rows) else "")
        for n, name in enumerate(header)
    ]
    for line, cells in rows:
        if len(cells) > len(names):
            raise CorpusError(
                f"{path}, line {line}: {len(cells)} cells, and the first row names {len(names)}: "
                'put a cell that holds a comma or a line break between " and "'
            )
    if not names:
        return
    table = Table.of(path, names, reading.text_keys)
    made, doubts = _typed_rows([cells for _, cells in rows], table, delimiter)
    for name, doubt in doubts.items():
        yield Record("", note=f"{path}: the column {name!r} stays text, because {doubt}")
    yield from table.records(made)


def _cell(row: Sequence[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    made: list[str] = []
    for name in names:
        numbered = (f"{name}_{n}" for n in count(2))
        is_new = not name or name not in made
        made.append(name if is_new else next(one for one in numbered if one not in (*made, *names)))
    return tuple(made)


def _typed_rows(
    rows: Sequence[Sequence[str]], table: Table, delimiter: str
) -> tuple[list[list[object]], dict[str, str]]:
    """Return the rows with typed cells, and the reasons of columns that stay texts in doubt.

    The columns of the text, and rows of a table without one, stay as they are.
    """
    made: list[list[object]] = [list(row) for row in rows]
    others = [n for n in range(len(table.names)) if table.columns and n not in table.columns]
    columns = {n: [row[n] for row in rows if n < len(row)] for n in others}
    mark, doubts = _decimal_mark(columns.values(), delimiter), {}
    for n, cells in columns.items():
        column = typed(cells, mark)
        if column.doubt:
            doubts[table.names[n]] = column.doubt
        owners = (row for row in made if n < len(row))
        for row, cell in zip(owners, column.cells, strict=True):
            row[n] = cell
    return made, doubts


def _decimal_mark(columns: Iterable[Sequence[str]], delimiter: str) -> str | None:
    """Return the decimal mark that columns of the file prove, for the others; see `numbers_of`."""
    if delimiter not in _BESIDE_COMMAS:
        return None
    filled = ([cell.strip() for cell in cells if cell.strip()] for cells in columns)
    marks = {decimal_mark(cells) for cells in filled} - {""}
    return marks.pop() if len(marks) == 1 else _BESIDE_COMMAS[delimiter]


def csv_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a CSV file that are not blank, with the number of each one's last line.

    Raises:
        CorpusError: If the file cannot be read or is not CSV.
    """
    return _rows(path, read_text(path))


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    delimiter, table = _delimited(path, text)
    skipped = int(len(table) < len(text))
    try:
        rows = _parsed(path, table, delimiter, skipped)
    except CorpusError:
        if delimiter != "\t":
            raise
        # Excel quotes cells in such files; other programs write quotation marks as they are.
        rows = _parsed(path, table, delimiter, skipped, csv.QUOTE_NONE)
    return [(line, _within(cells, len(rows[0][1]))) for line, cells in rows]


def _parsed(
    path: Path, table: str, delimiter: str, skipped: int, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> list[tuple[int, list[str]]]:
    """Return the rows that are not blank, with the numbers of their last lines."""
    lines = io.StringIO(table, newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        with _long_cells():
            return [(reader.line_num + skipped, cells) for cells in reader if cells]
    except csv.Error as error:
        raise CorpusError(
            f"{path}, line {reader.line_num + skipped}: not CSV ({error}): double a quotation mark "
            "within a cell"
        ) from error


def _within(cells: list[str], width: int) -> list[str]:
    """Return the cells of a row without empty ones beyond the header, which spreadsheets write."""
    return cells if any(cell.strip() for cell in cells[width:]) else cells[:width]


def _delimited(path: Path, text: str) -> tuple[str, str]:
    """Return the delimiter of a table, and the table without the line that names it, "sep=;"."""
    if match := _SEPARATOR_LINE.match(text):
        return match[1] or "\t", text[match.end() :]  # editors strip a tab at the end
    is_tsv = path.name.lower().endswith(TSV)
    if is_tsv and "\t" in text.partition("\n")[0]:
        return "\t", text
    return _delimiter_of(text) or ("\t" if is_tsv else ","), text


def _delimiter_of(text: str) -> str:
    """Return the delimiter whose first rows all are as long as the header.

    Of several, or if there is none, it is the one with most columns. Commas come last, because they
    also stand in the cells of other tables: "Name;Price, EUR". "" means a table of one column.
    """
    fits = {each: _fit(text, each) for each in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda each: fits[each])
    return best if fits[best] > (False, 0) else ""


def _fit(text: str, delimiter: str) -> tuple[bool, int]:
    """Return whether all rows are as long as the header, and the number of columns.

    The number is 0 if there is one column, if a row has more than the header, or if it is no CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        with _long_cells():
            rows = [row for row in islice(reader, _ROWS_TO_GUESS_FROM) if row]
    except csv.Error:
        return False, 0
    width = len(rows[0]) if rows else 0
    lengths = [len(_within(row, width)) for row in rows]
    return (min(lengths) == width, width) if width > 1 and max(lengths) <= width else (False, 0)


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
