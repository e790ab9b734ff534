"""Read the documents of office programs, as Markdown."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.formats.encodings import read_archive
from langchain_sift.indexing.formats.markdown import headings_of
from langchain_sift.indexing.formats.records import Reading, Record

_ESCAPED = re.compile(r"\\([*_])")
_SLIDE = re.compile(r"^<!-- Slide number: \d+ -->\n?", re.MULTILINE)
"""What markitdown adds: escapes to the text of `.docx`, and its number to each slide of `.pptx`."""

DOCUMENTS = (".docx", ".docm", ".pptx", ".pptm")


def read_document(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of a document, as markitdown converts it."""
    del reading
    require("files", "markitdown")
    from markitdown import StreamInfo  # noqa: PLC0415 - an extra
    from markitdown.converters import DocxConverter, PptxConverter  # noqa: PLC0415

    kinds = {".doc": DocxConverter, ".ppt": PptxConverter}
    ending = path.suffix.lower()
    content = io.BytesIO(read_archive(path))
    try:
        info = StreamInfo(extension=f"{ending[:4]}x", charset="utf-8")
        converted = kinds[ending[:4]]().convert(content, info)  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged archive breaks its converter in many ways
        raise CorpusError(
            f"{path}: not a {ending} file that can be read ({type(error).__name__}): save it again"
        ) from error
    text = converted.text_content or ""
    text = _SLIDE.sub("", text) if ending.startswith(".ppt") else _ESCAPED.sub(r"\1", text)
    yield Record(text, headings=headings_of(text))
