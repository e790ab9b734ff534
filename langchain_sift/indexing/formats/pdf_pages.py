"""Read the pages of PDF files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.formats.encodings import read_bytes
from langchain_sift.indexing.formats.pdf_text import cleaned_pages
from langchain_sift.indexing.formats.records import Reading, Record


def read_pdf(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of each page."""
    require("compare", "pypdf")
    from pypdf import PdfReader  # noqa: PLC0415 - an extra
    from pypdf.errors import DependencyError, FileNotDecryptedError  # noqa: PLC0415

    content = read_bytes(path)
    try:
        book = PdfReader(io.BytesIO(content))
        if book.is_encrypted and reading.password is not None:
            book.decrypt(reading.password)
        texts = [page.extract_text() for page in book.pages]
    except DependencyError as error:
        raise CorpusError(
            f"{path}: an encrypted PDF: install langchain-sift[compare] again, which brings the "
            "package cryptography"
        ) from error
    except FileNotDecryptedError as error:
        cure = (
            "name its password (--password)"
            if reading.password is None
            else ("the password that was named is not its own")
        )
        raise CorpusError(f"{path}: an encrypted PDF: {cure}, or save it without one") from error
    except Exception as error:
        # A damaged PDF breaks its parser in many ways, and the messages quote its content.
        raise CorpusError(
            f"{path}: not a PDF that can be read ({type(error).__name__}): save it again"
        ) from error
    for number, text in enumerate(cleaned_pages(texts), start=1):
        yield Record(text, {}, "page", number)
