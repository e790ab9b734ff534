"""Read the documents of office programs, as Markdown."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from langchain_sift.errors import CorpusError, require
from langchain_sift.indexing.formats.encodings import read_archive
from langchain_sift.indexing.formats.markdown import headings_of
from langchain_sift.indexing.formats.records import Heading, Reading, Record

_ESCAPED = re.compile(r"\\([*_])")
_SLIDE = re.compile(r"^<!-- Slide number: \d+ -->\n?", re.MULTILINE)
_PICTURE = re.compile(r"!\[([^\[\]\n]*)\]\((?:data:[^)\n]*|(\w*)\.jpg)\)")
"""What markitdown adds: escapes to the text of `.docx`, its number to each slide of `.pptx`, and a
link to each picture, which leads nowhere."""

_TITLE = re.compile(r"^# (.*\S)", re.MULTILINE)
_PICTURE_FILE = re.compile(r".*\.(png|jpe?g|gif|bmp|tiff?|svg|webp|emf|wmf)", re.IGNORECASE)

DOCUMENTS = (".docx", ".docm", ".pptx", ".pptm")


def read_document(path: Path, reading: Reading) -> Iterator[Record]:
    """Yield the text of a document, or of each slide, as markitdown converts it.

    Of a picture it has the description.
    """
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
    text = _PICTURE.sub(_description, converted.text_content or "")
    if ending.startswith(".ppt"):
        yield from _slides(text)
    else:
        text = _ESCAPED.sub(r"\1", text)
        yield Record(text, headings=headings_of(text))


def _slides(text: str) -> Iterator[Record]:
    """Yield each slide under its title, which may stand below other text."""
    for number, slide in enumerate(_SLIDE.split(text)[1:], start=1):
        title = _TITLE.search(slide)
        headings = () if title is None else (Heading(0, 1, title[1]),)
        yield Record(slide.strip(), {}, "slide", number, headings)


def _description(picture: re.Match[str]) -> str:
    """Return the description of a picture; "" if it is a name that a program gave."""
    text, name = picture[1].strip(), picture[2]
    is_name = re.sub(r"\W", "", text) == name or _PICTURE_FILE.fullmatch(text)
    return "" if is_name else text
