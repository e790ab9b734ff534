"""Read notebooks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langchain_sift.errors import CorpusError
from langchain_sift.indexing.formats.encodings import read_text
from langchain_sift.indexing.formats.markdown import headings_of
from langchain_sift.indexing.formats.records import Reading, Record

_LANGUAGES = (("language_info", "name"), ("kernelspec", "language"))


def read_notebook(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the cells of an `.ipynb` file as Markdown, without what their code printed."""
    try:
        book = json.loads(read_text(path, reading.encoding))
        # Version 3 of the format, of before 2015, has sheets of cells.
        sheets = [book, *book.get("worksheets", [])]
        cells = [cell for sheet in sheets for cell in sheet.get("cells", [])]
        text = "\n\n".join(_markdown(cell, _language(book)) for cell in cells)
    except (ArithmeticError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise CorpusError(
            f"{path}: not a notebook that can be read ({type(error).__name__}): save it again"
        ) from error
    yield Record(text, headings=headings_of(text))


def _language(book: Any) -> str:
    metadata = book.get("metadata", {})
    named = (metadata.get(key, {}).get(name) for key, name in _LANGUAGES)
    return next((str(name) for name in named if name), "python")


def _markdown(cell: Any, language: str) -> str:
    source = cell.get("source", cell.get("input", ""))
    text = source if isinstance(source, str) else "".join(source)
    kind = cell.get("cell_type")
    if kind == "heading":
        return f"{'#' * min(6, int(cell.get('level', 1)))} {text}"
    if kind == "markdown":
        return text
    # A longer fence than any in the cell, as in a program that writes Markdown.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language if kind == 'code' else ''}\n{text}\n{fence}"
