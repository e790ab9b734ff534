"""Read the documents of office programs and books, as Markdown."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.formats.encodings import read_archive
from langchain_sift.indexing.formats.markdown import headings_of
from langchain_sift.indexing.formats.records import Reading, Record

DOCUMENTS = (".docx", ".pptx", ".epub")


def read_document(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of a document, as markitdown converts it."""
    del reading
    require("files", "markitdown")
    from markitdown import StreamInfo  # noqa: PLC0415 - an extra
    from markitdown.converters import DocxConverter, EpubConverter, PptxConverter  # noqa: PLC0415

    kinds = {
        ".docx": DocxConverter,
        ".pptx": PptxConverter,
        ".epub": EpubConverter,
    }
    ending = path.suffix.lower()
    content = io.BytesIO(read_archive(path))
    try:
        info = StreamInfo(extension=ending, charset="utf-8")
        converted = kinds[ending]().convert(content, info)  # type: ignore[no-untyped-call]
    except Exception as error:  # a damaged archive breaks its converter in many ways
        raise CorpusError(
            f"{path}: not a {ending} file that can be read ({type(error).__name__}): save it again"
        ) from error
    text = converted.text_content or ""
    yield Record(text, headings=headings_of(text))
