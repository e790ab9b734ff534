"""Every format is read in full, or rejected by the name of the file."""

from __future__ import annotations

import base64
import csv
import email.message
import gzip
import io
import json
import random
import re
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import chromadb
import openpyxl
import pypdf
import pytest
from everyday_files import KINDS, mail
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from openpyxl.worksheet.formula import ArrayFormula
from pptx import Presentation
from unit_tests.indexing.sample_files import pdf

from langchain_sift.errors import ArgumentError, CorpusError
from langchain_sift.indexing.chunks import Chunking, split
from langchain_sift.indexing.files import read_file
from langchain_sift.indexing.folders import SourceFile
from langchain_sift.indexing.formats import Reading, csv_rows, encodings
from langchain_sift.indexing.formats.web_pages import WebPage

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PNG_TYPE = '<Default Extension="png" ContentType="image/png"/>'
SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def read(
    folder: Path,
    name: str,
    content: bytes | str,
    reading: Reading = Reading(),  # noqa: B008 - immutable
) -> list[Document]:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return [part.document for part in read_file(SourceFile.of(file), reading).parts]


def remarks(folder: Path, name: str, content: bytes | str) -> tuple[str, ...]:
    """Return the notes and the problems of a file."""
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    found = read_file(SourceFile.of(file))
    return (*found.notes, *found.problems)


def texts_of(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def metadata_of(documents: list[Document]) -> list[dict[str, Any]]:
    return [document.metadata for document in documents]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.markdown", "A.TXT"])
def test_a_text_file_is_one_document(tmp_path: Path, name: str) -> None:
    (document,) = read(tmp_path, name, b"\xef\xbb\xbfcaf\xc3\xa9\r\nand tea\n")
    assert document.page_content == "café\nand tea\n"
    assert document.metadata == {"source": name}


def test_a_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    documents = read(tmp_path, "a.pdf", pdf("Rice grows in wet fields.", "", "Wheat does not."))
    assert texts_of(documents) == ["Rice grows in wet fields.", "Wheat does not."]
    assert metadata_of(documents) == [
        {"source": "a.pdf", "page": 1},
        {"source": "a.pdf", "page": 3},
    ]


def test_a_pdf_with_an_empty_password_is_read(tmp_path: Path) -> None:
    assert texts_of(read(tmp_path, "a.pdf", pdf("Rice.", opens_with=""))) == ["Rice."]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".JSONL.GZ"])
def test_a_line_of_jsonl_is_a_document(tmp_path: Path, ending: str) -> None:
    rows = [
        {"text": "one", "year": 3, "good": True, "tags": [], "none": None, "source": "theirs"},
        {"text": " "},
        {"text": "two", "id": "b", "huge": 2**70, "worst": float("nan"), "$key": 1, "": 2},
    ]
    lines = "\n".join(json.dumps(row) for row in rows[:1]) + "\n\n"
    lines += "\n".join(json.dumps(row) for row in rows[1:])
    content = lines.encode()
    documents = read(
        tmp_path, f"a{ending}", gzip.compress(content) if "gz" in ending.lower() else content
    )
    assert texts_of(documents) == ["one", "two"]
    assert metadata_of(documents) == [
        {"year": 3, "good": True, "source": "theirs", "line": 1},
        {"id": "b", "huge": str(2**70), "source": f"a{ending}:4", "line": 4},
    ]


def test_half_a_character_is_replaced(tmp_path: Path) -> None:
    row = r'{"text": "\ud83d\ude00 \ud83d rice", "k": "\udc00"}'
    (document,) = read(tmp_path, "a.jsonl", row)
    assert document.page_content == "😀 \N{REPLACEMENT CHARACTER} rice"
    assert document.metadata["k"] == "\N{REPLACEMENT CHARACTER}"


def test_the_other_columns_of_a_csv_row_with_a_text_are_metadata(tmp_path: Path) -> None:
    content = 'year,text, place\n1999,"rice, in\r\nwet fields",Java\n\n2000,,Bali\n2001,wheat\n'
    documents = read(tmp_path, "a.csv", content)
    assert texts_of(documents) == ["rice, in\nwet fields", "wheat"]
    assert metadata_of(documents) == [
        {"year": 1999, "place": "Java", "source": "a.csv:1", "row": 1},
        {"year": 2001, "source": "a.csv:3", "row": 3},
    ]


def test_a_row_keeps_its_source_and_without_one_is_a_source_by_itself(tmp_path: Path) -> None:
    rows = [{"source": source, "text": "rice"} for source in ("book", 0, "", None, float("nan"))]
    documents = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    sources = ["book", 0, "a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert [document.metadata["source"] for document in documents] == sources
    documents = read(tmp_path, "a.csv", "text,source\nrice,book\nwheat,\nbarley\n")
    assert [document.metadata["source"] for document in documents] == ["book", "a.csv:2", "a.csv:3"]


def test_a_csv_row_without_a_text_is_all_its_columns(tmp_path: Path) -> None:
    documents = read(tmp_path, "a.csv", "\ufeffname,age\nAda,36\n,\nBob,\n")
    assert texts_of(documents) == ["name: Ada\nage: 36", "name: Bob\nage: "]
    assert metadata_of(documents) == [
        {"source": "a.csv:1", "row": 1},
        {"source": "a.csv:3", "row": 3},
    ]
    assert read(tmp_path, "empty.csv", "") == read(tmp_path, "header.csv", "a,text\n") == []


@pytest.mark.parametrize(
    "content",
    [
        "Year;TEXT;City\n2024;rice, and more;Java\n2023;wheat;Bali\n",
        "Year\tText\tCity\n2024\trice, and more\tJava\n2023\twheat\tBali\n",
        'sep=;\r\n"Year";"text";"City"\r\n2024;"rice, and more";Java\r\n2023;wheat;Bali\r\n',
        'sep=,\nYear,page_content,City\n2024,"rice, and more",Java\n2023,wheat,Bali\n',
        "Year|Content|City\n2024|rice, and more|Java\n2023|wheat|Bali\n",
        "Year;Text;City\n2024;rice, and more;Java;;\n2023;wheat;Bali;\n;;;;\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_kind_of_csv_is_the_same_table(tmp_path: Path, content: str, encoding: str) -> None:
    documents = read(tmp_path, "a.csv", content.encode(encoding))
    assert texts_of(documents) == ["rice, and more", "wheat"]
    assert [(one.metadata["Year"], one.metadata["City"]) for one in documents] == [
        (2024, "Java"),
        (2023, "Bali"),
    ]


@pytest.mark.parametrize("delimiter", [*";\t|"])
@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["Name", "Price, EUR"], [["Tea", "1,50"], ["Rice", "2,20"]]),
        (["Name", "Size, cm"], [["Ada", "170"]]),
        (["Name", "City, country"], [["Ada", "Rome, Italy"], ["Bo", "Bern"]]),
        (["Name", "Price, EUR", "Amount, kg"], [["Tea", "1,50", "2,5"], ["Rice", "2", ""]]),
        (["Name", "Price (EUR, net, each)"], [["Tea", "1,50"], ["Rice", "2"]]),
    ],
)
def test_commas_in_a_header_divide_no_columns_of_other_delimiters(
    tmp_path: Path, delimiter: str, names: list[str], rows: list[list[str]]
) -> None:
    written = "\n".join(delimiter.join(row) for row in (names, *rows))
    file = tmp_path / "q.csv"
    file.write_text(written)
    assert [cells for _, cells in csv_rows(file)] == [names, *rows]
    expected = ["\n".join(map(": ".join, zip(names, row, strict=True))) for row in rows]
    assert texts_of(read(tmp_path, "a.csv", written)) == expected


def test_other_delimiters_in_a_header_divide_no_columns_of_commas(tmp_path: Path) -> None:
    for mark in ";\t|":
        table = f"name,size{mark} cm\nAda,170\nBo,180\n"
        (first, _) = texts_of(read(tmp_path, "a.csv", table))
        assert first.split("\n") == ["name: Ada", f"size{mark} cm: 170"]


def test_a_table_of_tabs_may_have_one_column_with_commas(tmp_path: Path) -> None:
    table = "text\nHello, world; hello\nBye\n"
    assert texts_of(read(tmp_path, "a.tsv", table)) == ["Hello, world; hello", "Bye"]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1E5", "2E7"], ["1E5", "2E7"]),
        (["1e5", "-2e10"], ["1e5", "-2e10"]),
        (["1E5", "12"], ["1E5", "12"]),
        (["1E+05", "2e-7"], [1e5, 2e-7]),
        (["1.5E3", "2e10"], [1.5e3, 2e10]),
    ],
)
def test_codes_that_look_like_powers_of_ten_stay_text(
    tmp_path: Path, cells: list[str], values: list[object]
) -> None:
    assert column(tmp_path, cells, ",") == values


def test_columns_of_numbers_and_dates_keep_their_types(tmp_path: Path) -> None:
    content = (
        "text;whole;part;comma;code;day;moment;mixed;none\n"
        "a;1;1.5;1,5;007;2024-05-01;2024-05-01T10:00:00Z;1;\n"
        "b;-20;2e3;2;12;2023-01-31;2023-01-31 00:00;x;\n"
        "c;;;;;;;;\n"
    )
    first, second, third = metadata_of(read(tmp_path, "a.csv", content))
    assert first == {
        "whole": 1,
        "part": 1.5,
        "comma": 1.5,
        "code": "007",
        "day": "2024-05-01",
        "day_timestamp": 1714521600,
        "moment": "2024-05-01T10:00:00+00:00",
        "moment_timestamp": 1714557600,
        "mixed": "1",
        "none": "",
        "source": "a.csv:1",
        "row": 1,
    }
    assert (second["whole"], second["part"], second["comma"]) == (-20, 2000.0, 2.0)
    assert third == {"code": "", "mixed": "", "none": "", "source": "a.csv:3", "row": 3}
    (english,) = metadata_of(read(tmp_path, "b.csv", 'text,sum,fresh\na,"1,500",TRUE\n'))
    assert (english["sum"], english["fresh"]) == ("1,500", True)


def column(folder: Path, cells: list[str], delimiter: str, *others: str) -> list[object]:
    """Return the metadata of a column of CSV; each of the others is in a column of its own."""
    names = ["text", "x", *(f"other{n}" for n in range(len(others)))]
    rows = [["a", cell, *others] for cell in cells]
    lines = [delimiter.join(f'"{cell}"' for cell in row) for row in [names, *rows]]
    documents = read(folder, "a.csv", "\n".join(lines))
    return [row.get("x_timestamp", row.get("x")) for row in metadata_of(documents)]


def seconds(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("cells", "dates"),
    [
        (["31.12.2024", "1.2.2024"], [(2024, 12, 31), (2024, 2, 1)]),
        (["31/12/2024", "01/02/2024"], [(2024, 12, 31), (2024, 2, 1)]),
        (["12/31/2024", "", "1/2/2024"], [(2024, 12, 31), None, (2024, 1, 2)]),
        (["12-31-2024"], [(2024, 12, 31)]),
        (["2024/12/31", "2024/1/2"], [(2024, 12, 31), (2024, 1, 2)]),
        (["05/05/2024"], [(2024, 5, 5)]),  # both orders are the same day
        (["1.2.2024 10:30"], [(2024, 2, 1, 10, 30)]),
        (
            ["12/31/2024 1:45 PM", "1/2/2024 12:05:09 am"],
            [(2024, 12, 31, 13, 45), (2024, 1, 2, 0, 5, 9)],
        ),
    ],
)
def test_a_column_of_dates_in_one_proven_order_is_dates(
    tmp_path: Path, cells: list[str], dates: list[tuple[int, ...] | None]
) -> None:
    expected = [None if date is None else seconds(*date) for date in dates]
    assert column(tmp_path, cells, ",") == expected
    assert metadata_of(read(tmp_path, "b.csv", "text,x\na,31.12.2024\n"))[0]["x"] == "2024-12-31"


@pytest.mark.parametrize(
    "cells",
    [
        ["31/12/2024", "12/31/2024"],
        ["31/02/2024"],
        ["31.12.2024", "31/12/2024"],
        ["1.2.3"],
        ["1.2.24"],
        ["12/31/2024 13:45 PM"],
        ["31.12.2024", "unknown"],
    ],
)
def test_other_columns_stay_text(tmp_path: Path, cells: list[str]) -> None:
    assert column(tmp_path, cells, ",") == cells


def test_a_column_in_doubt_stays_text_and_is_named_once(tmp_path: Path) -> None:
    rows = "\n".join("a;01/02/2024;1.234" for _ in range(3))
    table = f"text;Day;Sum\n{rows}\n"
    (day, number) = remarks(tmp_path, "a.csv", table)
    assert "a.csv: the column 'Day' stays text, because 01/02/2024 may begin" in day
    assert "a.csv: the column 'Sum' stays text, because the mark of 1.234 may divide" in number
    (first, *_) = metadata_of(read(tmp_path, "a.csv", table))
    assert (first["Day"], first["Sum"]) == ("01/02/2024", "1.234")
    assert remarks(tmp_path, "a.csv", table.replace("01/02", "31/02").replace("1.234", "x")) == ()


@pytest.mark.parametrize(
    ("cells", "delimiter", "others", "expected"),
    [
        (["1.234,50", "-999,00", "7"], ";", [], [1234.5, -999.0, 7.0]),
        (["1.234,50", "12", ""], "\t", [], [1234.5, 12.0, None]),
        (["1.234.567"], ";", [], [1234567.0]),
        (["1,500"], ";", [], [1.5]),
        (["1,500"], "\t", [], ["1,500"]),
        (["1.234"], "\t", [], [1.234]),
        # Another column tells what the mark is.
        (["1.234", "12.500"], ";", ["1,5"], [1234.0, 12500.0]),
        (["1.234", "12.500"], ";", ["0.5"], [1.234, 12.5]),
        (["1,500"], "\t", ["0,5"], [1.5]),
        (["1,500"], ";", ["0.5"], ["1,500"]),
        (["1.234,50", "x"], ";", [], ["1.234,50", "x"]),
        (["1.23,50"], ";", [], ["1.23,50"]),
        (["1,234.50"], ";", [], ["1,234.50"]),
        (["1.234,50"], ",", [], ["1.234,50"]),
        (["007,5"], ";", [], ["007,5"]),
    ],
)
def test_a_decimal_comma_is_read_where_the_column_proves_it(
    tmp_path: Path, cells: list[str], delimiter: str, others: list[str], expected: list[object]
) -> None:
    assert column(tmp_path, cells, delimiter, *others) == expected


def test_dates_in_json_have_seconds_as_those_in_csv(tmp_path: Path) -> None:
    row = {"text": "a", "day": "2024-05-01", "by": {"on": "1.5.2024"}, "open": "1/5/2024", "n": "x"}
    (document,) = read(tmp_path, "a.jsonl", json.dumps(row))
    assert document.metadata == {
        "day": "2024-05-01",
        "day_timestamp": 1714521600,
        "by.on": "1.5.2024",
        "by.on_timestamp": 1714521600,
        "open": "1/5/2024",
        "n": "x",
        "line": 1,
        "source": "a.jsonl:1",
    }
    own = {"text": "a", "day": "2024-05-01T10:00:00Z", "day_timestamp": "mine"}
    (document,) = read(tmp_path, "a.json", json.dumps([own]))
    assert (document.metadata["day"], document.metadata["day_timestamp"]) == (own["day"], "mine")


def test_no_field_hides_another_of_its_name(tmp_path: Path) -> None:
    row = {
        "text": "a",
        "a": {"b": 1, "b_2": 2},
        "a.b": 3,
        "metadata": {"year": 1, "c": 2},
        "year": 2,
    }
    (document,) = read(tmp_path, "a.jsonl", json.dumps(row))
    assert document.metadata == {
        "a.b": 3,
        "a.b_2": 1,
        "a.b_2_2": 2,
        "year": 2,
        "metadata.year": 1,
        "c": 2,
        "line": 1,
        "source": "a.jsonl:1",
    }
    first, second = remarks(tmp_path, "a.jsonl", f"{json.dumps(row)}\n" * 2)
    assert "a.jsonl: two fields are called 'a.b': one is stored as 'a.b_2'" in first
    assert "two fields are called 'a.b_2'" in second


def test_marks_in_tables_of_tabs_may_be_text(tmp_path: Path) -> None:
    excel = 'text\tnote\n"a ""b"" c"\t"x\ty"\nhe said "hi"\tz\n'
    documents = read(tmp_path, "a.tsv", excel)
    assert texts_of(documents) == ['a "b" c', 'he said "hi"']
    assert documents[0].metadata["note"] == "x\ty"
    plain = 'text\tnote\n"Rice" grows, in fields\tx\n"Wheat\t5"\n'
    documents = read(tmp_path, "a.tsv", plain)
    assert texts_of(documents) == ['"Rice" grows, in fields', '"Wheat']
    assert [row["note"] for row in metadata_of(documents)] == ["x", '5"']
    assert texts_of(read(tmp_path, "a.csv", "sep=;\rtext;n\rrice;1\r")) == ["rice"]


def test_long_numbers_keep_every_digit(tmp_path: Path) -> None:
    content = "text;id;key;share\na;1234567890123456789;12345678901234567890;0.5\nb;1;2;1\n"
    first, second = metadata_of(read(tmp_path, "a.csv", content))
    assert (first["id"], first["key"], first["share"]) == (
        1234567890123456789,
        "12345678901234567890",
        0.5,
    )
    assert (second["id"], second["key"], second["share"]) == (1, "2", 1.0)


def test_columns_of_one_name_or_none_are_kept(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.csv", "text,a,,a,a_2,,Text\nrice,1,2,3,4,,wheat\n")
    assert row.page_content == "rice\nwheat"
    assert row.metadata == {
        "a": 1,
        "column 3": 2,
        "a_3": 3,
        "a_2": 4,
        "source": "a.csv:1",
        "row": 1,
    }
    (row,) = read(tmp_path, "b.csv", "a,,a,\n1,2,3,\n")
    assert row.page_content == "a: 1\ncolumn 2: 2\na_2: 3"


def test_fields_without_a_value_hide_nothing(tmp_path: Path) -> None:
    line = {"text": " ", "content": "rice", "line": None, "source": None}
    (document,) = read(tmp_path, "a.ndjson", json.dumps(line))
    assert document.page_content == "rice"
    assert document.metadata == {"text": " ", "line": 1, "source": "a.ndjson:1"}


def test_the_text_is_in_the_columns_and_keys_that_are_named(tmp_path: Path) -> None:
    reading = Reading(text_keys=("Title", "body"))
    table = "id,title,Body\n1,Rice,It grows.\n"
    (row,) = read(tmp_path, "a.csv", table, reading)
    assert (row.page_content, row.metadata["id"]) == ("Rice\nIt grows.", 1)
    lines = json.dumps({"Title": "Rice", "body": "It grows.", "text": "no"})
    (line,) = read(tmp_path, "a.jsonl", lines, reading)
    assert (line.page_content, line.metadata["text"]) == ("Rice\nIt grows.", "no")
    with pytest.raises(CorpusError, match=r"a\.csv, line 1: there is no column 'Title'.*'name'"):
        read(tmp_path, "a.csv", "name,Body\nx,y\n", reading)
    with pytest.raises(CorpusError, match=r'line 1: .*"Title" or "body"'):
        read(tmp_path, "a.jsonl", '{"text": "x"}', reading)


def test_documents_of_langchain_are_read_with_their_metadata(tmp_path: Path) -> None:
    rows = [
        {"page_content": "rice", "metadata": {"source": "book", "page": 3}, "type": "Document"},
        {"content": "wheat", "author": {"name": "Ada", "tags": ["x", "y"]}, "scores": [1, 0.5]},
        {"text": "oats", "metadata": {"tenant": "a", "year": 1}, "year": 2},
        {
            "text": "corn",
            "content": "other",
            "mixed": [1, "a"],
            "parts": [{"n": 1}],
            "flags": [True],
        },
    ]
    documents = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert texts_of(documents) == ["rice", "wheat", "oats", "corn"]
    first, second, oats, third = metadata_of(documents)
    assert (oats["tenant"], oats["year"]) == ("a", 2)
    assert first == {"source": "book", "page": 3, "type": "Document", "line": 1}
    assert second["author.name"] == "Ada"
    assert (second["author.tags"], second["scores"]) == (["x", "y"], [1.0, 0.5])
    assert (third["mixed"], third["parts"]) == (["1", "a"], '[{"n": 1}]')
    assert (third["flags"], third["content"]) == ([True], "other")


def test_a_list_of_objects_is_read_object_by_object(tmp_path: Path) -> None:
    rows = [{"text": "rice", "year": 2024}, {"content": "wheat", "tags": ["x"]}]
    documents = read(tmp_path, "a.json", json.dumps(rows, indent=1))
    assert texts_of(documents) == ["rice", "wheat"]
    assert metadata_of(documents)[0] == {"year": 2024, "item": 1, "source": "a.json:1"}
    lines = "".join(f"\ufeff{json.dumps(row)}\n" for row in rows)  # files that were joined
    for name in ("a.json", "a.jsonl"):
        documents = read(tmp_path, name, lines)
        assert texts_of(documents) == ["rice", "wheat"]
        assert metadata_of(documents)[0] == {"year": 2024, "line": 1, "source": f"{name}:1"}
    commented = '{\n  // the target\n  "target": "es2022",\n}'
    others = ('{"name": "x"}', "[1, 2]", '[{"text": "x"}, 3]', '{"name"', "[" * 10**5, commented)
    for other in others:
        assert texts_of(read(tmp_path, "a.json", other)) == [other]


def test_lists_and_numbers_can_be_filtered_in_chroma(tmp_path: Path) -> None:
    lines = '{"text": "rice", "tags": ["a", "b"]}\n{"text": "wheat", "tags": ["b"]}'
    table = "text,year,day\nbread,2024,2024-05-01\ncake,2023,2023-05-01\n"
    documents = [*read(tmp_path, "a.jsonl", lines), *read(tmp_path, "a.csv", table)]
    collection = chromadb.EphemeralClient().create_collection(f"formats-{uuid.uuid4()}")
    collection.add(
        ids=[str(n) for n in range(4)],
        documents=texts_of(documents),
        metadatas=metadata_of(documents),
        embeddings=[[1.0, 0.0]] * 4,
    )
    for where, expected in (
        ({"tags": {"$contains": "a"}}, ["rice"]),
        ({"year": 2024}, ["bread"]),
        ({"year": {"$gte": 2023}}, ["bread", "cake"]),
        ({"day_timestamp": {"$lt": 1704067200}}, ["cake"]),
    ):
        assert collection.get(where=where)["documents"] == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    text = "\ufeffcaf\xe9 人人"
    assert texts_of(read(tmp_path, name, text.encode(encoding))) == ["caf\xe9 人人"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('<meta charset="windows-1251"><p>рис', "рис"),
        ("<meta http-equiv='Content-Type' content='text/html; charset=shift_jis'><p>米", "米"),
        ("<META CHARSET=iso-8859-1><p>a “quote”", "a “quote”"),
        # Names of smaller encodings, which browsers read as larger ones.
        ("<meta charset=Shift_JIS><p>①", "①"),
        ("<meta charset=gb2312><p>镕", "镕"),
    ],
)
def test_the_declared_encoding_of_a_page_is_used(
    tmp_path: Path, content: str, expected: str
) -> None:
    names = {"рис": "windows-1251", "米": "shift_jis", "①": "cp932", "镕": "gbk"}
    name = names.get(expected, "windows-1252")
    assert texts_of(read(tmp_path, "a.html", content.encode(name))) == [expected]
    wrong = '<meta charset="no-such-one"><p>caf\xe9'.encode()
    assert texts_of(read(tmp_path, "a.html", wrong)) == ["caf\xe9"]


def test_the_declared_encoding_of_xml_and_source_code_is_used(tmp_path: Path) -> None:
    for name, text, encoding in (
        ("a.xml", '<?xml version="1.0" encoding="ISO-8859-1"?><a>caf\xe9</a>', "latin-1"),
        ("a.py", "#!/usr/bin/python\n# -*- coding: koi8-r -*-\nname = 'рис'\n", "koi8-r"),
    ):
        assert texts_of(read(tmp_path, name, text.encode(encoding))) == [text]


def test_the_encoding_of_other_files_is_an_option(tmp_path: Path) -> None:
    reading = Reading(encoding="windows-1252")
    for name in ("a.txt", "a.html", "a.py"):
        assert texts_of(read(tmp_path, name, b"caf\xe9 \x93x\x94", reading)) == ["caf\xe9 “x”"]
        assert texts_of(read(tmp_path, name, "caf\xe9".encode(), reading)) == ["caf\xe9"]
    for wrong in ("klingon", "base64"):
        with pytest.raises(ArgumentError, match=f"there is no encoding '{wrong}'"):
            Reading(encoding=wrong)


def test_escaped_characters_of_json_are_characters(tmp_path: Path) -> None:
    values = {"name": "Grüße aus Köln", "mark": "😀", "path": "C:\\users", "tab": "a\tb", "q": '"'}
    for content in (values, [1, values]):
        (document,) = read(tmp_path, "a.json", json.dumps(content, indent=1))
        assert json.loads(document.page_content) == content
        assert "Grüße aus Köln" in document.page_content
        assert "😀" in document.page_content
    spaced = ["東京　大阪", "می‌خواهم", "« été »", "👨‍👩"]
    (document,) = read(tmp_path, "c.json", json.dumps({"names": spaced}))
    assert json.loads(document.page_content) == {"names": spaced}
    assert all(name in document.page_content for name in spaced)
    (document,) = read(tmp_path, "b.json", r'{"a": "\u0041\ud83d", "b": "\\u00fc"}')
    assert json.loads(document.page_content) == {"a": "A\ud83d", "b": "\\u00fc"}


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("", "utf-8"),
        ("Content-Type: text/plain; charset=iso-8859-1\n", "iso-8859-1"),
        ("Content-Type: text/plain; charset=utf-8\n", "iso-8859-1"),
        ("Content-Type: text/plain; charset=us-ascii\n", "utf-8"),
        ("Content-Type: text/plain; charset=none-of-these\n", "utf-8"),
        ("Content-Type: text/html\n", "utf-8"),
    ],
)
def test_a_mail_is_read_in_the_encoding_that_fits(
    tmp_path: Path, declared: str, encoding: str
) -> None:
    body = "Grüße aus Köln"
    content = f"From: a@b.c\nSubject: hi\nMIME-Version: 1.0\n{declared}\n".encode()
    (document,) = read(tmp_path, "m.eml", content + f"{body}\n".encode(encoding))
    assert document.page_content.split("\n\n") == ["hi", body]
    for name, text, bytes_of in (
        ("gb2312", "总理朱镕基昨天在北京", "gbk"),
        ("shift_jis", "①東京", "cp932"),
        ("iso-8859-1", "“Hi”", "cp1252"),
        ("us-ascii", 'write <meta charset="koi8-r"> Grüße', "latin-1"),
        ("a\0b", "Grüße", "utf-8"),
    ):
        content = f"Subject: hi\nContent-Type: text/plain; charset={name}\n\n".encode()
        (document,) = read(tmp_path, "n.eml", content + text.encode(bytes_of))
        assert document.page_content.split("\n\n") == ["hi", text]
    content = b"Subject: hi\nContent-Type: text/plain; charset=utf-8\n\n"
    (document,) = read(tmp_path, "o.eml", content + "Grüße aus Köln".encode() + b" \xff")
    assert document.page_content == "hi\n\nGrüße aus Köln \ufffd"
    page = '<html><head><meta charset="iso-8859-2"></head><body>Łódź</body></html>'
    content = b"Subject: hi\nMIME-Version: 1.0\nContent-Type: text/html\n\n"
    (document,) = read(tmp_path, "p.eml", content + page.encode("iso-8859-2"))
    assert document.page_content.split("\n\n") == ["hi", "Łódź"]


def test_nuls_are_no_text(tmp_path: Path) -> None:
    assert texts_of(read(tmp_path, "a.txt", "a\0b")) == ["ab"]


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-256"])
def test_encrypted_pdfs_are_read_with_their_password(tmp_path: Path, algorithm: str) -> None:
    plain = pypdf.PdfReader(io.BytesIO(pdf("Rice.")))
    for password in ("", "secret"):
        writer = pypdf.PdfWriter(clone_from=plain)
        writer.encrypt(password, "owner", algorithm=algorithm)
        made = io.BytesIO()
        writer.write(made)
        reading = Reading(password=password or None)
        assert texts_of(read(tmp_path, "a.pdf", made.getvalue(), reading)) == ["Rice."]
        assert "secret" not in repr(reading)
    with pytest.raises(CorpusError, match=r"a\.pdf: an encrypted PDF: name its password"):
        read(tmp_path, "a.pdf", made.getvalue())
    with pytest.raises(CorpusError, match="is not its own"):
        read(tmp_path, "a.pdf", made.getvalue(), Reading(password="wrong"))  # noqa: S106


def test_mail_is_read_with_its_header(tmp_path: Path) -> None:
    content = mail(["Rice grows."])
    (document,) = read(tmp_path, "a.eml", content)
    assert document.page_content.strip() == "Facts\n\nRice grows."
    assert document.metadata["from"] == "ada@example.org"
    assert document.metadata["date_timestamp"] == 1704103200
    html = b"Subject: =?utf-8?q?caf=C3=A9?=\nContent-Type: text/html\n\n<p>a<br>b"
    assert texts_of(read(tmp_path, "b.eml", html)) == ["caf\xe9\n\na\nb"]
    unknown = b"Subject: x\nContent-Type: text/plain; charset=klingon\n\ncaf\xc3\xa9"
    assert texts_of(read(tmp_path, "c.eml", unknown)) == ["x\n\ncaf\xe9"]


def attached(*files: tuple[str, bytes]) -> email.message.EmailMessage:
    made = email.message.EmailMessage()
    made["Subject"] = "Facts"
    made.set_content("See below.")
    for name, content in files:
        made.add_attachment(content, "application", "octet-stream", filename=name)
    return made


def test_attachments_of_mail_are_documents(tmp_path: Path) -> None:
    inner = attached(("b.md", b"# Wheat\n\nIt grows."))
    message = attached(
        ("a.csv", b"text,year\nrice,2024\n"),
        ("a.csv", b"text,attachment,day\noats,own,01/02/2024\n"),
        ("photo.png", b"\x89PNG"),
        ("../broken.pdf", b"%PDF-"),
        ("", b"x"),
    )
    message.add_attachment(inner)
    documents = read(tmp_path, "m.eml", message.as_bytes())
    assert texts_of(documents) == [
        *("Facts\n\nSee below.", "rice", "oats", "Facts\n\nSee below.", "# Wheat\n\nIt grows."),
    ]
    names = ["a.csv", "a.csv", "photo.png", "../broken.pdf", "attached.bin", "attached.eml"]
    mail, rice, oats, forwarded, wheat = metadata_of(documents)
    assert mail == {"subject": "Facts", "attachments": names, "source": "m.eml"}
    assert rice == {
        "mail": "m.eml",
        "attachment": "a.csv",
        "year": 2024,
        "source": "m.eml/a.csv:1",
        "row": 1,
    }
    assert (oats["source"], oats["attachment"]) == ("m.eml/a.csv (2):1", "own")
    assert forwarded["source"] == "m.eml/attached.eml"
    assert wheat == {
        "mail": "m.eml/attached.eml",
        "attachment": "b.md",
        "source": "m.eml/attached.eml/b.md",
    }
    day, note, problem = remarks(tmp_path, "m.eml", message.as_bytes())
    assert day.startswith("m.eml/a.csv (2): the column 'day' stays text")
    assert note == "m.eml: attachments that are not read: photo.png, attached.bin"
    assert problem.startswith("m.eml/../broken.pdf: not a PDF that can be read")
    assert not [*tmp_path.glob("**/broken*")]


def test_mail_within_mail_is_read_to_a_limit(tmp_path: Path) -> None:
    message = attached(("deep.txt", b"rice"))
    for _ in range(8):
        outer = attached()
        outer.add_attachment(message)
        message = outer
    content = message.as_bytes()
    assert len(read(tmp_path, "a.eml", content)) == 6
    (note,) = remarks(tmp_path, "a.eml", content)
    assert note.endswith("attachments that are not read: attached.eml")


def test_all_texts_of_a_mail_are_read_and_pictures_in_it_are_no_attachments(tmp_path: Path) -> None:
    parts = [
        *(("text/plain", "", "first"), ("text/html", "", "<p>second"), ("text/plain", "", " ")),
        ("image/png", "Content-ID: <x>\nContent-Disposition: inline; filename=x.png\n", "x"),
        ("multipart/alternative", "", ""),
    ]
    body = "".join(f"--B\nContent-Type: {kind}\n{more}\n{text}\n" for kind, more, text in parts[:4])
    forms = "--B\nContent-Type: multipart/alternative; boundary=C\n\n"
    forms += (
        "--C\nContent-Type: text/html\n\n<p>no\n--C\nContent-Type: text/plain\n\nthird\n--C--\n"
    )
    head = "Subject: S\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n"
    (document,) = read(tmp_path, "a.eml", f"{head}{body}{forms}--B--\n")
    assert document.page_content.split() == ["S", "first", "second", "third"]
    assert document.metadata == {"subject": "S", "source": "a.eml"}
    deep = "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(1200))
    with pytest.raises(CorpusError, match=r"a\.eml: not a mail that can be read \(RecursionError"):
        read(tmp_path, "a.eml", f"Subject: S\n{deep}\nrice")


@pytest.mark.parametrize(
    "kind", ["text/markdown", "text/enriched", "text/calendar", "text/csv", "multipart/mixed"]
)
def test_a_body_of_any_type_of_text_is_read(tmp_path: Path, kind: str) -> None:
    content = f"Subject: S\nContent-Type: {kind}\n\nRice, and more\n"
    expected = ["S\n\nRice, and more"]
    for before in (b"", b"\xef\xbb\xbf", b"\n\r\n", b"From MAILER Thu Jan 1 00:00:00 1970\n"):
        documents = read(tmp_path, "a.eml", before + content.encode())
        assert [text.strip() for text in texts_of(documents)] == expected
    assert remarks(tmp_path, "a.eml", content) == ()


def test_every_part_of_a_mail_is_read_or_named(tmp_path: Path) -> None:
    kinds = ["text/plain", "text/csv", "application/json", "text/markdown", "application/zip"]
    texts = ["first", "a,b", '[{"text": "third"}]', "# fourth", "unseen"]
    parts = [f"Content-Type: {kind}\n\n{text}" for kind, text in zip(kinds, texts, strict=True)]
    parts.append("Content-Type: image/png\nContent-ID: <x>\n\nx")
    head = "Subject: S\nMIME-Version: 1.0\nContent-Type: multipart/{}; boundary=B\n\n--B\n"
    content = head.format("mixed") + "\n--B\n".join(parts) + "\n--B--\n"
    body, attachment = read(tmp_path, "a.eml", content)
    assert body.page_content.split() == ["S", "first", "a,b", "#", "fourth"]
    assert attachment.page_content == "third"
    assert body.metadata["attachments"] == ["attached.json", "attached.zip"]
    assert remarks(tmp_path, "a.eml", content) == (
        "a.eml: attachments that are not read: attached.zip",
    )
    forms = {"text/calendar": "no", "text/html": "<p>second", "text/plain": "third"}
    for count, expected in ((1, "no"), (2, "second"), (3, "third")):
        parts = [f"Content-Type: {kind}\n\n{text}" for kind, text in [*forms.items()][:count]]
        content = head.format("alternative") + "\n--B\n".join(parts) + "\n--B--\n"
        assert [text.split() for text in texts_of(read(tmp_path, "b.eml", content))] == [
            ["S", expected]
        ]


def test_notebooks_of_both_formats_are_read(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Rice\n", "It grows."]},
        {"cell_type": "code", "source": "x <- 1", "outputs": [{"text": ["unseen"]}]},
    ]
    new = {"cells": cells, "metadata": {"kernelspec": {"language": "R"}}, "nbformat": 4}
    assert texts_of(read(tmp_path, "a.ipynb", json.dumps(new))) == [
        "# Rice\nIt grows.\n\n```R\nx <- 1\n```"
    ]
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Rice"]},
        {"cell_type": "code", "input": ["x = 1"], "outputs": []},
        {"cell_type": "raw", "source": "end"},
    ]
    old = {"worksheets": [{"cells": cells}], "metadata": {}, "nbformat": 3}
    assert texts_of(read(tmp_path, "a.ipynb", json.dumps(old))) == [
        "## Rice\n\n```python\nx = 1\n```\n\n```\nend\n```"
    ]
    program = {"cells": [{"cell_type": "code", "source": "text = '''\n```\n# Rice\n```'''"}]}
    file = tmp_path / "a.ipynb"
    file.write_text(json.dumps(program))
    assert [part.headings for part in read_file(SourceFile.of(file)).parts] == [()]
    high = {"cells": [{"cell_type": "heading", "level": 10**9, "source": "Rice"}]}
    assert texts_of(read(tmp_path, "a.ipynb", json.dumps(high))) == ["###### Rice"]
    endless = json.dumps(high).replace(str(10**9), "1e999")
    for broken in (
        "[]",
        "",
        '{"cells": [1]}',
        '{"cells": [{"source": [1]}]}',
        "[" * 10**5,
        endless,
    ):
        with pytest.raises(CorpusError, match=r"a\.ipynb: not a notebook that can be read"):
            read(tmp_path, "a.ipynb", broken)


def book(chapters: dict[str, str], *lacking: str) -> bytes:
    made = io.BytesIO()
    names = [*chapters, *lacking]
    items = "".join(f'<item id="{name}" href="text/{name}%20x.xhtml"/>' for name in names)
    spine = "".join(f'<itemref idref="{name}"/>' for name in names * 2)  # twice counts once
    package = f"""<package xmlns="http://www.idpf.org/2007/opf"><metadata
    xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Grains</dc:title></metadata>
    <manifest>{items}</manifest><spine>{spine}</spine></package>"""
    container = '<container xmlns="x"><rootfile full-path="OEBPS/c.opf"/></container>'
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("OEBPS/c.opf", package)
        for name, content in chapters.items():
            archive.writestr(f"OEBPS/text/{name} x.xhtml", content)
    return made.getvalue()


def test_a_book_is_read_chapter_by_chapter(tmp_path: Path) -> None:
    content = book({"b": "<h1>Rice</h1><p>It grows.", "a": "<h2>Wheat</h2>Dry.<!--" * 9}, "c")
    file = tmp_path / "a.epub"
    file.write_bytes(content)
    (part,) = read_file(SourceFile.of(file)).parts
    assert part.document.page_content == "Rice\nIt grows.\nWheat\nDry."
    assert part.document.metadata == {"title": "Grains", "source": "a.epub"}
    assert [(each.line, each.level) for each in part.headings] == [(0, 1), (2, 2)]
    (note,) = remarks(tmp_path, "a.epub", content)
    assert note.endswith("a.epub: the book lacks its chapters OEBPS/text/c x.xhtml")
    encoding = content.replace(b'<container xmlns="x">', b'<?xml encoding="x"?>x')
    for broken in (b"x", content[:-20], content.replace(b"c.opf", b"x.opf", 1), encoding):
        with pytest.raises(CorpusError, match=r"a\.epub: not a book that can be read"):
            read(tmp_path, "a.epub", broken)


def chapter(title: str, body: str) -> str:
    return f"<html><head><title>{title}</title></head><body>{body}</body></html>"


def test_each_chapter_of_a_book_begins_with_its_heading(tmp_path: Path) -> None:
    chapters = {
        "a": chapter("Rice", "<h1>Rice</h1><p>It grows."),
        "b": chapter("Wheat", "<h1>The Wheat</h1><svg><title>An ear</title></svg><p>Dry."),
        "c": chapter("Oats", "<p>Few."),
        "d": chapter("Rye", "<p>Rye</p><p>Dark."),
        "e": chapter("Grains", "<p>It goes on."),
        "f": chapter("Part 2", "<p>Still."),
        "g": chapter("Part 2", "<p>Still on."),
        "h": chapter("Cover", "<img src='x'>"),
    }
    file = tmp_path / "a.epub"
    file.write_bytes(book(chapters))
    source = SourceFile.of(file)
    chunks = split(source, read_file(source).parts, Chunking(at_headings=True))
    assert [(chunk.metadata["headings"], chunk.page_content) for chunk in chunks] == [
        ("Rice", "Rice\nIt grows."),
        ("The Wheat", "The Wheat\nAn ear\nDry."),
        ("Oats", "Oats\nFew."),
        ("Rye", "Rye\nDark.\nIt goes on.\nStill.\nStill on."),
    ]


def test_the_title_of_a_drawing_is_not_that_of_the_page() -> None:
    assert WebPage.of("<svg><title>Logo</title></svg><p>x").title == ""
    assert WebPage.of("<body><svg><title>Logo</title></svg><p>x</body>").title == ""
    assert WebPage.of("<head><meta charset=utf-8><title>Rice</title></head><p>x").title == "Rice"
    assert WebPage.of("<title>Rice</title><p>x").title == "Rice"


def test_the_title_of_a_page_is_read_once(tmp_path: Path) -> None:
    same = chapter("Rice", "<p>Start</p><h1> Rice </h1><p>It grows.")
    assert texts_of(read(tmp_path, "a.html", same)) == ["Start\nRice\nIt grows."]
    file = tmp_path / "b.html"
    file.write_text(chapter("Grains", "<h1>Rice</h1><svg><title>An ear</title></svg>"))
    (part,) = read_file(SourceFile.of(file)).parts
    assert part.document.page_content == "Grains\nRice\nAn ear"
    assert [(each.line, each.title) for each in part.headings] == [(1, "Rice")]


@pytest.mark.slow
def test_documents_of_office_programs_are_read(tmp_path: Path) -> None:
    facts = ["Rice grows.", "Wheat grows."]
    for name, ending in (("letter.docx", "docm"), ("notebook.ipynb", "ipynb")):
        (document,) = read(tmp_path, f"a.{ending}", KINDS[name](facts))
        assert all(fact in document.page_content for fact in facts)
    slides = read(tmp_path, "a.pptm", KINDS["show.pptx"](facts))
    assert texts_of(slides) == [f"# Slide\n{fact}" for fact in facts]
    assert metadata_of(slides)[1] == {"slide": 2, "source": "a.pptm"}
    documents = read(tmp_path, "a.xlsx", KINDS["book.xlsx"](facts))
    assert texts_of(documents) == facts
    assert metadata_of(documents)[1] == {
        "sheet": "Sheet",
        "Year": 2001,
        "row": 2,
        "source": "a.xlsx:2",
    }


@pytest.mark.slow
def test_office_documents_have_no_marks_of_their_converter(tmp_path: Path) -> None:
    facts = ["Call snake_case with 5 * 3.", r"Delete C:\temp\*.txt and \_x."]
    for name, ending in (("letter.docx", "docx"), ("show.pptx", "pptx")):
        text = "\n".join(texts_of(read(tmp_path, f"a.{ending}", KINDS[name](facts))))
        assert all(fact in text for fact in facts)
        assert "<!--" not in text


def show(*slides: tuple[str, str, str | None]) -> bytes:
    """Return slides: each has a text above its title, and perhaps a described picture below."""
    made, written = Presentation(), io.BytesIO()
    for above, title, description in slides:
        slide = made.slides.add_slide(made.slide_layouts[5])
        slide.shapes.title.text = title
        slide.shapes.add_textbox(0, 0, 100, 100).text_frame.text = above
        if description is not None:
            placed = slide.shapes.add_picture(io.BytesIO(PNG), 0, 9_000_000)
            placed._element._nvXxPr.cNvPr.set("descr", description)
    made.save(written)
    return written.getvalue()


@pytest.mark.slow
def test_each_slide_is_a_document_under_its_title(tmp_path: Path) -> None:
    file = tmp_path / "a.pptx"
    file.write_bytes(show(("CROPS", "Rice", None), ("ONLY 2024", "Wheat", None), ("", "", None)))
    source = SourceFile.of(file)
    chunks = split(source, read_file(source).parts, Chunking(at_headings=True))
    assert [(chunk.page_content, chunk.metadata) for chunk in chunks] == [
        (
            f"{above}\n# {title}",
            {"slide": n, "source": "a.pptx", "start_index": 0, "headings": title},
        )
        for n, (above, title) in enumerate([("CROPS", "Rice"), ("ONLY 2024", "Wheat")], start=1)
    ]


def word_with_picture(description: str) -> bytes:
    """Return a document whose picture has a description."""
    main = "http://schemas.openxmlformats.org/drawingml/2006/"
    document = f"""<w:drawing xmlns:wp="{main}wordprocessingDrawing" xmlns:a="{main}main"
    xmlns:pic="{main}picture" xmlns:r="{OFFICE}"><wp:inline>
    <wp:docPr id="1" name="Picture 1" descr="{description}"/><a:graphic><a:graphicData><pic:pic>
    <pic:blipFill><a:blip r:embed="p1"/></pic:blipFill></pic:pic></a:graphicData></a:graphic>
    </wp:inline></w:drawing>"""
    relations = f"""<Relationships xmlns="{OFFICE.replace("officeDocument", "package")}">
    <Relationship Id="p1" Type="{OFFICE}/image" Target="media/p.png"/></Relationships>"""
    changed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(KINDS["letter.docx"](["before ", "PICTURE"]))) as made,
        zipfile.ZipFile(changed, "w") as archive,
    ):
        for name in made.namelist():
            content = made.read(name).decode().replace("<w:t>PICTURE</w:t>", document)
            archive.writestr(name, content.replace("<Override", f"{PNG_TYPE}<Override"))
        archive.writestr("word/_rels/document.xml.rels", relations)
        archive.writestr("word/media/p.png", PNG)
    return changed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("A map of the fields (2024)", "A map of the fields (2024)"),
        ("my photo.JPG", ""),
        ("", ""),
    ],
)
def test_a_picture_has_its_description_alone(
    tmp_path: Path, description: str, expected: str
) -> None:
    (slide,) = read(tmp_path, "a.pptx", show(("", "Rice", description)))
    assert slide.page_content.split("\n", 1)[0] == "# Rice"
    assert slide.page_content[6:].strip() == expected
    (document,) = read(tmp_path, "a.docx", word_with_picture(description))
    assert document.page_content.split("before")[1].strip() == expected
    assert read(tmp_path, "b.pptx", show(("", "", ""))) == []


def test_a_formula_without_a_value_stands_for_it(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["item", "price"], ["rice", "=2*3"], ['=A2&" bags"', "=B2*10"], ["oats", 7]):
        book.active.append(row)
    book.active["C1"], book.active["C2"] = "sum", ArrayFormula("C2:C2", "=SUM(B2:B3*2)")
    book.save(tmp_path / "made.xlsx")
    rows = read(tmp_path, "a.xlsx", (tmp_path / "made.xlsx").read_bytes())
    assert texts_of(rows)[0] == "item: rice\nprice: =2*3\nsum: =SUM(B2:B3*2)"
    assert 'item: =A2&" bags"\nprice: =B2*10' in rows[1].page_content
    assert "item: oats\nprice: 7" in rows[2].page_content
    # A program has computed the formulas, one of them to an empty text.
    computed = io.BytesIO()
    with (
        zipfile.ZipFile(tmp_path / "made.xlsx") as made,
        zipfile.ZipFile(computed, "w") as archive,
    ):
        for name in made.namelist():
            content = made.read(name)
            if name == "xl/worksheets/sheet1.xml":
                content = re.sub(rb"<f>2\*3</f><v ?(?:/>|></v>)", b"<f>2*3</f><v>6</v>", content)
                assert b"<v>6</v>" in content
            archive.writestr(name, content)
    rows = read(tmp_path, "b.xlsx", computed.getvalue())
    assert "item: rice\nprice: 6" in rows[0].page_content
    assert not any("=" in row.page_content for row in rows)


@pytest.mark.slow
def test_a_spreadsheet_may_have_a_cell_far_away(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["text", "year"])
    book.active.append(["rice", 2024])
    book.active["XFD100000"] = "far"
    book.save(tmp_path / "made.xlsx")
    (row,) = read(tmp_path, "a.xlsx", (tmp_path / "made.xlsx").read_bytes())
    assert (row.page_content, row.metadata["year"]) == ("rice", 2024)


@pytest.mark.parametrize("name", ["a.docx", "a.xlsx"])
def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path, name: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("word/document.xml", b"")
        archive.infolist()[0].file_size = 2**32  # the size that the archive claims
    with pytest.raises(CorpusError, match=f"{name}: an archive .* unpacks to 4294967296"):
        read(tmp_path, name, packed.getvalue())


def test_a_packed_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "_MOST_UNPACKED", 1000)
    packed = gzip.compress(b'{"text": "%s"}' % (b" " * 200_000))
    limit = 100 * len(packed)
    with pytest.raises(CorpusError, match=f"a.jsonl.gz: {len(packed)} bytes .* more than {limit}"):
        read(tmp_path, "a.jsonl.gz", packed)
    assert texts_of(read(tmp_path, "a.jsonl.gz", gzip.compress(b'{"text": "rice"}'))) == ["rice"]


def test_a_cell_may_be_longer_than_the_default_limit_of_csv(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (document,) = read(tmp_path, "a.csv", f"text\n{'x' * (limit + 1)}\n")
    assert len(document.page_content) == limit + 1
    assert csv.field_size_limit() == limit


@pytest.mark.slow
@SAME_FOLDER
@given(
    rows=st.lists(
        st.lists(st.text(alphabet='ab,"\n; é'), min_size=2, max_size=2).filter(
            lambda row: row[0].strip()
        ),
        max_size=5,
    )
)
def test_rows_written_by_csv_are_read_unchanged(tmp_path: Path, rows: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written).writerows([["text", "note"], *rows])
    documents = read(tmp_path, "a.csv", written.getvalue())
    assert [(one.page_content, one.metadata["note"]) for one in documents] == [
        tuple(r) for r in rows
    ]


def test_each_block_of_html_is_on_separate_lines(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><html><head><title>Rice &amp; wheat</title><style>p {}</style>
    <script>let x = "<p>no</p>"</script></head><body>lead <b>bold</b>
    <i>it</i>alic<p>one
    two<p>three<br>four</p>tail<!-- unseen --><table><tr><td>a</td><td>b</td></tr>
    <tr><td>c</table><pre>
x
  y <span>z</span>
</pre>end<ul><li>l1<li>l2</ul><template><script>no</script>no</template><div>a<p></p>b</div>"""
    (document,) = read(tmp_path, "a.html", page)
    assert document.page_content.split("\n") == [
        *("Rice & wheat", "lead bold italic", "one two", "three", "four", "tail", "a b", "c"),
        *("x", "  y z", "end", "l1", "l2", "a", "b"),
    ]


def nested(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.sampled_from(["b", "p", "div", "td", "tr", "template", "x-y"])
    return st.builds(lambda n, inner: f"<{n}>{''.join(inner)}</{n}>", names, st.lists(children))


@pytest.mark.slow
@SAME_FOLDER
@given(
    st.lists(
        st.recursive(
            st.sampled_from(["word", " ", "<br>", "<!--c-->", "<script>no</script>"]), nested
        )
    )
)
def test_no_word_of_html_is_lost_or_joined_across_blocks(tmp_path: Path, parts: list[str]) -> None:
    documents = texts_of(read(tmp_path, "a.htm", "".join(f"<p>begin</p>{part}" for part in parts)))
    shown = "".join(documents)
    seen = without_templates("".join(parts))
    assert shown.count("word") == seen.count("word")
    assert "no" not in shown
    assert not any(line != line.strip() or not line for line in shown.split("\n") if documents)
    assert all("begin" not in line or line == "begin" for line in shown.split("\n"))


def without_templates(markup: str) -> str:
    """Return the markup outside of <template>, which may be nested."""
    depth, kept = 0, []
    for part in markup.replace("<template>", "\0<").replace("</template>", "\0>").split("\0"):
        depth += {"<": 1, ">": -1}.get(part[:1], 0) if part[:1] in "<>" and kept else 0
        kept.append(part if depth == 0 else "")
    return "".join(kept)


@pytest.mark.slow
def test_the_time_for_a_page_is_linear_in_its_length(tmp_path: Path) -> None:
    """Many <br> and many other elements: a parser that looks for each among all takes minutes."""
    (document,) = read(tmp_path, "a.html", "<p>x<br>y</p>" * 50_000)
    assert document.page_content.count("\n") == 99_999


@pytest.mark.parametrize(
    "markup", ["https://example.org/", "a.txt", '<?xml version="1.0"?><p>x</p>']
)
def test_unusual_html_is_read_without_a_warning(tmp_path: Path, markup: str) -> None:
    assert texts_of(read(tmp_path, "a.html", markup))


@SAME_FOLDER
@example("<![oops[x]]>")  # older parsers of Python reject it
@given(st.text(alphabet='<>!/[]-?"ab p\n&;'))
def test_any_text_is_html(tmp_path: Path, markup: str) -> None:
    read(tmp_path, "a.html", markup)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("a<!-- b <p>c", "a"),  # as in browsers, to the end of the page
        ("a<!--> b --><p>c", "a b -->\nc"),
        ("a<!-- b --!>c", "ac"),
        ("a<![CDATA[ b ]]>c", "ac"),
        ("a<![CDATA[ b > c", "a c"),
        ("a<![if x]>b<![endif]>c", "abc"),
        ("a<? b", "a"),
        ("a<b class='", "a"),
        ("a < b & c", "a < b & c"),
        ("a &am", "a &am"),
        (f"a&#{'9' * 5000};b", "a\N{REPLACEMENT CHARACTER}b"),
        ("<script src='x'/>a<template/>b", "ab"),
        ("a<script>b", "a"),
    ],
)
def test_what_does_not_end_is_read_as_browsers_do(tmp_path: Path, markup: str, text: str) -> None:
    assert "\n".join(texts_of(read(tmp_path, "a.html", markup))) == text


@pytest.mark.slow
def test_no_part_of_a_page_makes_its_time_quadratic(tmp_path: Path) -> None:
    """A quadratic parser takes hours for such pages: the limit of a test stops it."""
    for part in ("<!--", "<![CDATA[", "<?", "<!x", "</a", "<a ", "<a b='", "&#"):
        read(tmp_path, "a.html", part * (800_000 // len(part)))
    read(tmp_path, "b.html", "<template>" * 100_000 + "</template></style>" * 100_000)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n\xe9t\xe9", "a.txt, line 2: not UTF-8"),
        ("a.md", b"\xff\xfea\0b", "a.md, line 1: not UTF-16"),
        ("a.html", b"<p>\xe9", "a.html, line 1: not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{oops', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl, line 1: not JSON"),
        ("a.jsonl", b'{"txt": "x"}', 'a.jsonl, line 1: .*"text"'),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"x" * 100, mtime=0)[:-9], "a.jsonl.gz: cannot be read"),
        (
            "a.jsonl.gz",
            gzip.compress(b"xyz", mtime=0)[:10] + b"\xff" * 20,
            "a.jsonl.gz: cannot be read",
        ),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv, line 3: 3 cells, and the first row names 2"),
        ("a.csv", b'a,b\n1,"2\n', "a.csv, line 2: not CSV"),
        ("a.csv", b'a,b\n1,"2"x\n', "a.csv, line 2: not CSV"),
        ("a.pdf", b"", "a.pdf: not a PDF"),
        ("a.pdf", b"%PDF-1.4 and then nothing", "a.pdf: not a PDF"),
        ("a.pdf", pdf("Rice.")[:300], "a.pdf: not a PDF"),
        ("a.pdf", pdf("Rice.", opens_with="secret"), "a.pdf: an encrypted PDF"),
        (
            "a.jsonl",
            json.dumps({"text": "x", **{str(n): n for n in range(5000)}}).encode(),
            "a.jsonl, line 1: a text has 5000 fields",
        ),
        ("a.eml", b"no header", "a.eml: not a mail: it has no header"),
        ("a.doc", b"x", "a.doc: not a supported format: .*.html"),
    ],
)
def test_a_bad_file_is_rejected_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, name, content)


@pytest.mark.slow
def test_a_damaged_pdf_is_read_or_rejected(tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = pdf("Rice grows in wet fields.", "Wheat does not.")
    rejected = 0
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 30)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            read(tmp_path, "a.pdf", bytes(damaged))
        except CorpusError:
            rejected += 1
    assert rejected > 0
