"""Make a folder of everyday files: 180 of 15 kinds that can be read, and 20 that are broken."""

from __future__ import annotations

import email.message
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from fpdf import FPDF

Maker = Callable[[list[str]], bytes]


def plain(facts: list[str]) -> bytes:
    return "\n\n".join(facts).encode()


def utf_16(facts: list[str]) -> bytes:
    return "\r\n\r\n".join(facts).encode("utf-16")


def markdown(facts: list[str]) -> bytes:
    return "\n\n".join(f"# Section {n}\n\n{fact}" for n, fact in enumerate(facts)).encode()


def html(facts: list[str]) -> bytes:
    body = "".join(f"<h2>Part {n}</h2><p>{fact}<br>end" for n, fact in enumerate(facts))
    page = f'<html><head><meta charset="windows-1252"></head><body>caf\xe9{body}</body></html>'
    return page.encode("windows-1252")


def pdf(facts: list[str]) -> bytes:
    made = FPDF()
    for fact in facts:
        made.add_page()
        made.set_font("helvetica", size=12)
        made.multi_cell(0, text=fact)
    return bytes(made.output())


def json_lines(facts: list[str]) -> bytes:
    rows = [
        {"content": fact, "tags": ["a", f"t{n}"], "by": {"n": n}} for n, fact in enumerate(facts)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def packed_json_lines(facts: list[str]) -> bytes:
    return gzip.compress(json_lines(facts), mtime=0)


def semicolons(facts: list[str]) -> bytes:
    rows = "".join(f'{n};"{fact}";2024-0{n + 1}-01\r\n' for n, fact in enumerate(facts))
    return f"\ufeffsep=;\r\nYear;TEXT;Date\r\n{rows}".encode()


def tabs(facts: list[str]) -> bytes:
    return ("year\ttext\n" + "".join(f"{n}\t{fact}\n" for n, fact in enumerate(facts))).encode()


def code(facts: list[str]) -> bytes:
    bodies = (f'def f{n}():\n    """{fact}"""\n    return {n}\n' for n, fact in enumerate(facts))
    return "\n\n".join(bodies).encode()


def settings(facts: list[str]) -> bytes:
    return "".join(f"key{n}: {fact}\n" for n, fact in enumerate(facts)).encode()


def mail(facts: list[str]) -> bytes:
    message = email.message.EmailMessage()
    message["Subject"], message["From"], message["To"] = (
        "Facts",
        "ada@example.org",
        "bob@example.org",
    )
    message["Date"] = "Mon, 01 Jan 2024 10:00:00 +0000"
    message.set_content("\n\n".join(facts))
    message.add_alternative(f"<p>{'<p>'.join(facts)}", subtype="html")
    return message.as_bytes()


def notebook(facts: list[str]) -> bytes:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": [f"## Part {n}\n", fact]}
        for n, fact in enumerate(facts)
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-'
    'officedocument.wordprocessingml.document.main+xml"/></Types>'
)
RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/'
    'relationships/officeDocument" Target="word/document.xml"/></Relationships>'
)


def word(facts: list[str]) -> bytes:
    paragraphs = "".join(f"<w:p><w:r><w:t>{fact}</w:t></w:r></w:p>" for fact in facts)
    document = f'<w:document xmlns:w="{WORD}"><w:body>{paragraphs}</w:body></w:document>'
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in (
            ("[Content_Types].xml", TYPES),
            ("_rels/.rels", RELATIONS),
            ("word/document.xml", document),
        ):
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{content}')
    return made.getvalue()


def slides(facts: list[str]) -> bytes:
    from pptx import Presentation  # noqa: PLC0415 - an extra

    made, show = io.BytesIO(), Presentation()
    for fact in facts:
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = "Slide", fact
    show.save(made)
    return made.getvalue()


def spreadsheet(facts: list[str]) -> bytes:
    from openpyxl import Workbook  # noqa: PLC0415 - an extra

    made, book = io.BytesIO(), Workbook()
    book.active.append(["Text", "Year"])
    for n, fact in enumerate(facts):
        book.active.append([fact, 2000 + n])
    book.save(made)
    return made.getvalue()


KINDS: dict[str, Maker] = {
    "plain.txt": plain,
    "utf16.txt": utf_16,
    "notes.md": markdown,
    "page.html": html,
    "paper.pdf": pdf,
    "rows.jsonl": json_lines,
    "rows.jsonl.gz": packed_json_lines,
    "table.csv": semicolons,
    "table.tsv": tabs,
    "code.py": code,
    "settings.yaml": settings,
    "mail.eml": mail,
    "notebook.ipynb": notebook,
    "letter.docx": word,
    "show.pptx": slides,
    "book.xlsx": spreadsheet,
}

_ARCHIVE = word(["A fact"])
BROKEN: dict[str, bytes] = {
    "latin.txt": b"caf\xe9",
    "half-utf16.txt": b"\xff\xfea\0b",
    "latin.md": b"# caf\xe9",
    "latin.html": b"<p>caf\xe9",
    "empty.pdf": b"",
    "cut.pdf": b"%PDF-1.4 and then nothing",
    "cut-2.pdf": pdf(["A fact"])[:300],
    "oops.jsonl": b'{"text": "fine"}\n{oops',
    "no-text.jsonl": b'{"title": "fine"}',
    "list.jsonl": b"[1, 2]",
    "cut.jsonl.gz": gzip.compress(b"x" * 100, mtime=0)[:-9],
    "no-gzip.jsonl.gz": b"plain",
    "wide.csv": b"a,b\n1,2,3\n",
    "quotes.csv": b'a,b\n1,"2\n',
    "latin.py": b"# caf\xe9",
    "nothing.eml": b"no header here",
    "cut.ipynb": b'{"cells": [',
    "cut.docx": _ARCHIVE[: len(_ARCHIVE) // 2],
    "text.pptx": b"no archive",
    "text.xlsx": b"no archive",
}


def make_folder(folder: Path, *, files: int = 180) -> dict[str, list[str]]:
    """Make the files; return the facts of each that can be read, by its name."""
    kinds = list(KINDS.items())
    written: dict[str, list[str]] = {}
    for number in range(files):
        name, maker = kinds[number % len(kinds)]
        path = f"folder {number % 7}/{number}-{name}"
        facts = [f"Fact {number}-{n} is kept in {name}." for n in range(3)]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(maker(facts))
        written[path] = facts
    for name, content in BROKEN.items():
        (folder / "broken").mkdir(exist_ok=True)
        (folder / "broken" / name).write_bytes(content)
    return written
