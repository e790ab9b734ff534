"""Read the texts of a file, with one module for each kind of format.

| file | task |
|---|---|
| `records.py` | define the texts of files and the settings of reading |
| `encodings.py` | read and decode the bytes of a file |
| `json_lines.py` | objects of `.jsonl` and `.json` files |
| `tables.py`, `spreadsheets.py` | rows of CSV files and spreadsheets |
| `cells.py`, `numbers.py`, `dates.py` | the types of their cells |
| `markdown.py` | headings of Markdown |
| `web_pages.py` | HTML |
| `pdf_pages.py`, `pdf_text.py` | pages of PDFs, and their text before typesetting |
| `documents.py` | documents of office programs, and slides |
| `books.py`, `notebooks.py` | books and notebooks |
| `mail.py` | mail |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from langchain_sift.indexing.formats.books import read_book
from langchain_sift.indexing.formats.documents import DOCUMENTS, read_document
from langchain_sift.indexing.formats.encodings import (
    declared_encoding,
    decode,
    read_bytes,
    read_lines,
    read_text,
)
from langchain_sift.indexing.formats.json_lines import (
    JSON,
    JSON_LINES,
    read_json,
    read_json_lines,
    read_objects,
)
from langchain_sift.indexing.formats.mail import read_mail
from langchain_sift.indexing.formats.markdown import headings_of
from langchain_sift.indexing.formats.notebooks import read_notebook
from langchain_sift.indexing.formats.pdf_pages import read_pdf
from langchain_sift.indexing.formats.records import Location, Reader, Reading, Record
from langchain_sift.indexing.formats.spreadsheets import read_spreadsheet
from langchain_sift.indexing.formats.tables import CSV, TSV, csv_rows, read_csv
from langchain_sift.indexing.formats.web_pages import read_web_page

__all__ = [
    "CODE",
    "CSV",
    "DOCUMENTS",
    "JSON",
    "JSON_LINES",
    "MARKDOWN",
    "READERS",
    "TSV",
    "Location",
    "Reader",
    "Reading",
    "Record",
    "csv_rows",
    "read_lines",
    "read_objects",
    "reader_of",
]

MARKDOWN = (".md", ".markdown", ".mdx")
_HTML = (".html", ".htm", ".xhtml")
_TEXT = (".txt", ".text", ".rst", ".org", ".tex", ".log", ".adoc")

CODE: Mapping[str, str] = {
    ".py": "python",
    ".js": "js",
    ".mjs": "js",
    ".jsx": "js",
    ".ts": "ts",
    ".tsx": "ts",
    ".java": "java",
    ".kt": "kotlin",
    ".scala": "scala",
    ".go": "go",
    ".rs": "rust",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".cs": "csharp",
    ".swift": "swift",
    ".rb": "ruby",
    ".php": "php",
    ".pl": "",
    ".lua": "lua",
    ".hs": "haskell",
    ".ex": "elixir",
    ".proto": "proto",
    ".sol": "sol",
    ".ps1": "powershell",
    ".sh": "",
    ".sql": "",
    ".r": "",
    ".jl": "",
    ".css": "",
    ".yaml": "",
    ".yml": "",
    ".toml": "",
    ".ini": "",
    ".cfg": "",
    ".xml": "",
}
"""Endings of source code, and the language that its splitter knows it by; "" for none."""


def _read_plain(path: Path, reading: Reading) -> Iterator[Record]:
    yield Record(read_text(path, reading.encoding), has_lines_of_file=True)


def _read_markdown(path: Path, reading: Reading) -> Iterator[Record]:
    text = read_text(path, reading.encoding)
    yield Record(text, headings=headings_of(text), has_lines_of_file=True)


def _read_code(path: Path, reading: Reading) -> Iterator[Record]:
    content = read_bytes(path)
    text = decode(path, content, reading.encoding, declared_encoding(content))
    yield Record(text, has_lines_of_file=True)


READERS: Mapping[str, Reader] = {
    **dict.fromkeys(_TEXT, _read_plain),
    **dict.fromkeys(MARKDOWN, _read_markdown),
    **dict.fromkeys(_HTML, read_web_page),
    ".pdf": read_pdf,
    **dict.fromkeys(JSON_LINES, read_json_lines),
    **dict.fromkeys(JSON, read_json),
    **dict.fromkeys((*CSV, *TSV), read_csv),
    **dict.fromkeys(DOCUMENTS, read_document),
    ".ipynb": read_notebook,
    ".xlsx": read_spreadsheet,
    ".xlsm": read_spreadsheet,
    ".epub": read_book,
    ".eml": read_mail,
    **dict.fromkeys(CODE, _read_code),
}
"""The reader of each format, by the ending of a file's name."""


def reader_of(path: Path, readers: Mapping[str, Reader] = READERS) -> Reader | None:
    """Return the reader for files of this name; None if the format is unknown.

    Args:
        path: The file.
        readers: Readers by the ending of a file's name; the first that fits is taken.
    """
    name = path.name.lower()
    return next((reader for ending, reader in readers.items() if name.endswith(ending)), None)
